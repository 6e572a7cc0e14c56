"""What a reply says of how it was trained, and what of the user's account of it cannot be.

An audit is only as good as its picture of the client: with the wrong optimizer, mode or number of steps every attack
fails, and a failed attack is no evidence. So what can be checked without the truth is checked: counters, what did not
move, norms, ranks, zeros, levels. A finding that contradicts the account is `wrong`; others are there to be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from defenses.stochastic.places import head
from fedsim.audit.consistency_steps import acts_on_entries, by_the_decay, by_the_head, by_the_sizes, head_name
from fedsim.audit.finding import Finding
from fedsim.audit.observing import Reply, images_of, message_says, steps_of
from fedsim.audit.told import Told
from fedsim.models import entries

COUNTER = "num_batches_tracked"
FEW_LEVELS = 64
"""So few distinct sizes of many entries are no training: they were rounded."""



def findings(reply: Reply, told: Told, model: nn.Module) -> list[Finding]:
    """All that a reply says of its training, what contradicts the user's account first."""
    found = [
        *_arrays(reply, model),
        *_counters(reply, told),
        *_moved(reply, told, model),
        *_length(reply, told),
    ]
    if told.shared == "weights" and told.local is not None:
        found += [] if told.loss else by_the_head(reply, told, told.local, model)
        found += by_the_sizes(reply, told, told.local)
        found += by_the_decay(reply, told.local)
    found += _images(reply, told, model)
    if not told.defense and (told.local is None or told.local.linear):
        found += _rounded(reply)  # Adam's steps are rounded signs themselves
    return sorted(found, key=lambda finding: not finding.wrong)


def _arrays(reply: Reply, model: nn.Module) -> Iterator[Finding]:
    if reply.absent:
        names = _some(reply.absent)
        yield Finding(
            "Not sent", f"{names}: taken to be as --model makes them; if that draws them at random, nothing fits", True
        )
    if torch.finfo(getattr(torch, reply.precision)).eps > torch.finfo(torch.float32).eps:
        yield Finding("Precision", f"the reply travelled in {reply.precision}: digits were lost, and with them detail")


def _counters(reply: Reply, told: Told) -> Iterator[Finding]:
    """Batch-norm counts its batches in train mode, and in no other."""
    counted = [name for name in reply.state if name.rpartition(".")[2] == COUNTER]
    if not counted:
        return
    back = [name for name in counted if name in reply.buffers]
    if not back:
        yield Finding("Buffers", "the model has batch-norm statistics, and the reply returns none")
        return
    moved = {name: round(float(reply.buffers[name] - reply.state[name])) for name in back}
    still = [name.rpartition(".")[0] for name, number in moved.items() if number == 0]
    counts = sorted({number for number in moved.values() if number})
    if not counts:
        yield Finding(
            "Mode",
            "no batch-norm counter moved: the client trained in evaluation mode, or sent its buffers back as they came",
            told.mode == "train",
        )
        return
    if told.mode == "eval":
        said = f"batch-norm counters moved by {_numbers(counts)}: the client trained in train mode"
        yield Finding("Mode", said, True)
    if still:
        yield Finding("Mode", f"of the batch norms {_some(still)} did not count: frozen, in evaluation mode")
    expected = steps_of(reply, told)
    said = f"batch-norm counters say {_numbers(counts)} step{'s' if counts != [1] else ''} in train mode"
    if expected is not None and counts != [expected]:
        yield Finding("Steps", f"{said}, where what was said of the client makes {expected}", True)
    else:
        yield Finding("Steps", said)


def _moved(reply: Reply, told: Told, model: nn.Module) -> Iterator[Finding]:
    still = [name for name, value in reply.update.items() if not value.any()]
    if still:
        yield Finding("Frozen", f"{_some(still)} did not change: not trained, or without a gradient")
    lacking = sorted({*entries.trained(model).values()} - reply.update.keys())
    if lacking:
        yield Finding("Not returned", f"{_some(lacking)}: trained by the model, and no part of the reply")
    if reply.fixed_moved:
        says = f"{_some(reply.fixed_moved)} changed, though the model as --model makes it does not train them"
        yield Finding("Frozen", says, True)


def _length(reply: Reply, told: Told) -> Iterator[Finding]:
    local = told.local
    if local is None or told.batch_size is None or reply.examples is None or told.shared == "gradient":
        return
    if local.epochs is None and local.steps * told.batch_size != reply.examples:
        made = f"{local.steps} × {told.batch_size}"
        says = f"the client says that it has {reply.examples:,} images, and trained on {made}: a part of them, or more"
        yield Finding("Images", says, local.steps * told.batch_size > reply.examples)


def _images(reply: Reply, told: Told, model: nn.Module) -> Iterator[Finding]:
    """Each image adds one outer product to the gradient of a layer that sees one vector of it."""
    name, images = head_name(model, "weight"), images_of(reply, told)
    if name is None or name not in reply.update or images is None or not _one_vector(model, told):
        return
    change = reply.update[name].double()
    values = torch.linalg.svdvals(change)
    lost = 8 * torch.finfo(torch.float32).eps * float(reply.state[name].double().norm())
    rank = int((values > max(lost, 1e-5 * float(values[0]))).sum())
    times = told.local.epochs if told.local is not None and told.local.epochs is not None else 1
    if rank > images * times and not told.defense:
        says = (
            f"the head's update has rank {rank}: it is of at least {rank} images, where what was said makes "
            f"{images}; or there is weight decay, an optimizer that acts on each entry, or noise"
        )
        plain = told.local is None or not any(acts_on_entries(optimizer) for optimizer in told.local.optimizers)
        yield Finding("Images", says, plain)


def _rounded(reply: Reply) -> Iterator[Finding]:
    values = torch.cat([value.flatten() for value in reply.update.values() if value.any()])
    zeros = float((values == 0).double().mean())
    if zeros > 0.5:
        says = f"{zeros:.0%} of the entries did not move: pruned, or of units and pixels that are zero"
        yield Finding("Zeros", says)
    sizes = values[values != 0].abs()
    largest = float(sizes.max())
    levels = len(torch.unique((sizes / largest * 1e4).round())) if len(sizes) else 0
    if len(sizes) > 1000 and 2 < levels <= FEW_LEVELS:  # all alike is another finding
        says = f"{len(sizes):,} entries take {levels} sizes: rounded, or signs; say so by --defense"
        yield Finding("Levels", says, True)


def from_message(config: Mapping[str, Any], told: Told) -> Iterator[Finding]:
    """What the message told the client, where the user says otherwise."""
    said = message_says(config)
    local = told.local
    pairs = [
        ("Learning rate", said.rate, None if local is None else local.learning_rate),
        ("Batch size", said.batch_size, told.batch_size),
        ("Epochs", said.epochs, None if local is None else local.epochs),
    ]
    for about, heard, given in pairs:
        if heard is not None and given is not None and heard != given:
            yield Finding(about, f"the message told the client {heard:g}, and you say {given:g}", True)


def _one_vector(model: nn.Module, told: Told) -> bool:
    """Whether the head sees one vector of each image."""
    layer = head(model)
    seen: list[int] = []
    if layer is None:
        return False
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dim()))
    mode = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, *told.shape))
    finally:
        handle.remove()
        model.train(mode)
    return seen == [2]


def _some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _numbers(values: list[int]) -> str:
    return " and ".join(str(value) for value in values)



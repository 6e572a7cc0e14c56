"""What a reply says of how it was trained, and what of the user's account of it cannot be.

An audit is only as good as its picture of the client: with the wrong optimizer, mode or number of steps every attack
fails, and a failed attack is no evidence. So what can be checked without the truth is checked: counters, what did not
move, norms, ranks, zeros, levels. A finding that contradicts the account is `wrong`; others are there to be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from defenses.client.groups import Part
from defenses.client.optimizers import Optimizer
from defenses.client.optimizers.sgd import SGD
from defenses.client.training import LocalTraining
from defenses.stochastic.places import head
from fedsim.audit.observing import Reply, images_of, message_says, steps_of
from fedsim.audit.told import Told
from fedsim.models import entries

COUNTER = "num_batches_tracked"
ALIKE = 0.9
"""The share of entries that move alike from which on an update is one of signs."""
FEW_LEVELS = 64
"""So few distinct sizes of many entries are no training: they were rounded."""
ADAM = 3.17
"""`(1 - beta1) / sqrt(1 - beta2)` at their defaults: no step of Adam moves an entry by more than so many rates."""


@dataclass(frozen=True)
class Finding:
    """One thing that a reply says.

    Args:
        about: a word or two.
        says: a sentence.
        wrong: it contradicts what was said of the client.
    """

    about: str
    says: str
    wrong: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def findings(reply: Reply, told: Told, model: nn.Module) -> list[Finding]:
    """All that a reply says of its training, what contradicts the user's account first."""
    found = [
        *_arrays(reply, model),
        *_counters(reply, told),
        *_moved(reply, told, model),
        *_length(reply, told),
    ]
    if told.shared == "weights" and told.local is not None:
        found += [] if told.loss else _head(reply, told, told.local, model)
        found += _steps_sizes(reply, told, told.local)
        found += _decay(reply, told.local)
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
    if reply.precision != "float32":
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


def _head(reply: Reply, told: Told, local: LocalTraining, model: nn.Module) -> Iterator[Finding]:
    """Under the mean cross-entropy the gradient at a logit is a softmax less a label: they add up to zero, and none is
    outside [-1, 1]."""
    name = _head_name(model, "bias")
    steps = steps_of(reply, told)
    if name is None or name not in reply.update or steps is None:
        return
    [part] = local.parts([name])
    if not isinstance(part.optimizer, SGD) or part.optimizer.weight_decay:
        return
    if told.defense or not reply.update[name].any():
        return
    change = reply.update[name].double()
    length, total = float(change.abs().sum()), abs(float(change.sum()))
    lost = 4 * torch.finfo(torch.float32).eps * float(reply.state[name].double().abs().sum() + length)
    if total > max(0.01 * length, lost):
        says = (
            "the changes of the head's bias do not add up to zero, as they do under cross-entropy and SGD: another "
            "loss, weight decay, another optimizer, or noise"
        )
        yield Finding("Loss", says, True)
        return
    most = 2 * _push(part, part.optimizer, steps)
    if length > 1.01 * most + lost:
        says = (
            f"the head's bias moved by {length:.3g} in all, and by at most {most:.3g} in {_steps(steps)} of a mean "
            f"cross-entropy at the learning rate {part.learning_rate:g}: the rate, the steps or the momentum is "
            "larger, or the loss is summed over the batch"
        )
        yield Finding("Learning rate, steps or reduction", says, True)


def _push(part: Part, optimizer: SGD, steps: int) -> float:
    """How far SGD moves in so many steps along a gradient of 1."""
    moved, velocity = 0.0, 0.0
    for step in range(steps):
        velocity = optimizer.momentum * velocity + 1
        moved += part.rate(step) * (1 + optimizer.momentum * velocity if optimizer.nesterov else velocity)
    return moved


def _steps_sizes(reply: Reply, told: Told, local: LocalTraining) -> Iterator[Finding]:
    """The first step of Adam, or of a sign, moves every entry alike; one of SGD does not."""
    sizes = torch.cat([value.flatten().abs() for value in reply.update.values()])
    sizes = sizes[sizes > 0]
    steps = steps_of(reply, told)
    if len(sizes) < 100 or local.groups:  # whose entries move by rates of their own
        return
    [part] = local.parts([next(iter(reply.update))])
    rate, rates = part.rate(0), sum(part.rate(step) for step in range(steps or 1))
    most, middle = float(sizes.max()), float(sizes.median())
    alike = float(((sizes - middle).abs() < 0.02 * middle).double().mean())
    if isinstance(local.optimizer, SGD):
        if alike > ALIKE:
            says = f"{alike:.0%} of the entries moved by the same amount, {middle:.3g}: one step of Adam, or of signs"
            yield Finding("Optimizer", says, True)
        return
    if steps == 1 and alike < 0.5 and local.optimizer.name.startswith("adam"):
        says = f"entries moved by differing amounts, where the first step of {local.optimizer.name} moves all alike"
        yield Finding("Optimizer", f"{says}: another optimizer, or more steps", True)
    elif steps is not None and most > 1.01 * ADAM * rates and local.optimizer.name == "adam":
        says = f"an entry moved by {most:.3g}, more than {_steps(steps)} of adam at {local.learning_rate:g} can"
        yield Finding("Learning rate or steps", says, True)
    elif steps == 1 and alike > ALIKE and not 0.98 * rate < middle < 1.02 * rate:
        says = f"most entries moved by {middle:.3g}: that is the learning rate of one step, not {rate:g}"
        yield Finding("Learning rate", says, True)


def _decay(reply: Reply, local: LocalTraining) -> Iterator[Finding]:
    """Where there is no gradient, weight decay alone moves a weight: by the same share of each."""
    if local.groups or not reply.update:  # of which each may decay by its own
        return
    [part] = local.parts([next(iter(reply.update))])
    said = float(getattr(local.optimizer, "weight_decay", 0.0))
    eps = torch.finfo(torch.float32).eps
    rest, shares = 0, 0
    ratios: list[Tensor] = []
    for name, change in reply.update.items():
        weight = reply.state[name].double()
        if not change.any() or weight.dim() < 2:
            continue
        there = weight.abs() > weight.abs().median()
        rest += int((change[there] == 0).sum())
        shares += int(there.sum())
        ratios.append((change.double()[there] / weight[there]).flatten())
    if not ratios or not shares:
        return
    if said and said * local.learning_rate > 4 * eps and rest > 0.01 * shares and local.optimizer.name != "adam":
        says = f"{rest:,} large weights did not move at all, where a weight decay of {said:g} would have moved them"
        yield Finding("Weight decay", says, True)
        return
    every = torch.cat(ratios)
    bins = (every / (2 * eps)).round()
    common, counts = torch.unique(bins, return_counts=True)
    place = int(counts.argmax())
    ratio, share = float(common[place]) * 2 * eps, float(counts[place]) / len(every)
    if not said and ratio < -8 * eps and share > 0.05:
        decay = -ratio / (part.rate(0) or local.learning_rate)
        says = f"{share:.0%} of the large weights shrank by the same share, {-ratio:.2g}"
        yield Finding("Weight decay", f"{says}: a weight decay of about {decay:.2g} in one step", True)


def _images(reply: Reply, told: Told, model: nn.Module) -> Iterator[Finding]:
    """Each image adds one outer product to the gradient of a layer that sees one vector of it."""
    name, images = _head_name(model, "weight"), images_of(reply, told)
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
        plain = told.local is None or not any(_acts_on_entries(optimizer) for optimizer in told.local.optimizers)
        yield Finding("Images", says, plain)


def _acts_on_entries(optimizer: Optimizer) -> bool:
    return not isinstance(optimizer, SGD) or optimizer.weight_decay > 0


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


def _head_name(model: nn.Module, what: str) -> str | None:
    layer = head(model)
    if layer is None:
        return None
    path = next((path for path, module in model.named_modules() if module is layer), None)
    name = f"{path}.{what}" if path else what
    return name if name in dict(model.named_parameters()) else None


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


def _steps(steps: int) -> str:
    return f"{steps} step{'' if steps == 1 else 's'}"

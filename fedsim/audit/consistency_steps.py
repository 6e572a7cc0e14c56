"""What the changes themselves say of the optimizer: of its steps, its learning rate, its weight decay, and the loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from defenses.client.groups import Part
from defenses.client.optimizers import Optimizer
from defenses.client.optimizers.sgd import SGD
from defenses.client.training import LocalTraining
from defenses.stochastic.places import head
from fedsim.audit.finding import Finding
from fedsim.audit.observing import Reply, steps_of
from fedsim.audit.told import Told

ALIKE = 0.9
"""The share of entries that move alike from which on an update is one of signs."""
ADAM = 3.17
"""`(1 - beta1) / sqrt(1 - beta2)` at their defaults: no step of Adam moves an entry by more than so many rates."""


def by_the_head(reply: Reply, told: Told, local: LocalTraining, model: nn.Module) -> Iterator[Finding]:
    """Under the mean cross-entropy the gradient at a logit is a softmax less a label: they add up to zero, and none is
    outside [-1, 1]."""
    name = head_name(model, "bias")
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


def by_the_sizes(reply: Reply, told: Told, local: LocalTraining) -> Iterator[Finding]:
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


def by_the_decay(reply: Reply, local: LocalTraining) -> Iterator[Finding]:
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


def acts_on_entries(optimizer: Optimizer) -> bool:
    return not isinstance(optimizer, SGD) or optimizer.weight_decay > 0


def head_name(model: nn.Module, what: str) -> str | None:
    layer = head(model)
    if layer is None:
        return None
    path = next((path for path, module in model.named_modules() if module is layer), None)
    name = f"{path}.{what}" if path else what
    return name if name in dict(model.named_parameters()) else None


def _steps(steps: int) -> str:
    return f"{steps} step{'' if steps == 1 else 's'}"

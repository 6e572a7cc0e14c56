"""From what was seen of a client's training to the facts about it: which images each step took, and what is odd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from defenses.stochastic.functional import is_a_call
from fedsim.audit.canary_form import Images, Refusal, numbers
from fedsim.audit.canary_items import Loaders
from fedsim.audit.canary_seen import Call, Step
from fedsim.audit.canary_watch import Watch
from fedsim.audit.facts import Facts, GroupSeen, LossSeen

CLOSE = {torch.float32: 1e-5, torch.float64: 1e-5}
"""How far an image may be from the canary's and still be it; coarser types round more."""


@dataclass(frozen=True)
class Judged:
    """The facts, the images of each step, the masks of all steps by site, and the gradient of the first step."""

    facts: Facts
    order: tuple[tuple[int, ...], ...]
    noise: dict[str, Tensor]
    gradient: dict[str, Tensor]


def judged(watch: Watch, loaders: Loaders, received: Mapping[str, Tensor]) -> Judged:
    """What a client did.

    Args:
        received: the arrays of its reply, under the names that were sent.

    Raises:
        Refusal: it did not train, or not in a way that can be seen.
    """
    model = watch.model()
    if not loaders.made:
        raise Refusal("the client makes no torch.utils.data.DataLoader: nothing takes known images to it")
    if not watch.taken:
        raise Refusal("the client takes no step of a torch optimizer")
    if model is None:
        raise Refusal("no optimizer step of the client trains a called module with the arrays that were sent")
    images = loaders.images
    order = tuple(tuple(at for call in step.calls for at in _entered(call, images).places) for step in watch.steps)
    calls = [call for step in watch.steps for call in step.calls]
    names = watch.names(model)
    gradients = set().union(*(step.gradients for step in watch.steps))
    resting = calls[0].resting
    modules = [path for path, _ in model.named_modules()]
    mode: Literal["train", "eval", "mixed"] = (
        "train" if not resting else "eval" if len(resting) == len(modules) else "mixed"
    )
    first = watch.steps[0]
    own, *others = _groups(watch.steps)
    facts = Facts(
        optimizer=_named(first.optimizer),
        options=own.options,
        learning_rates=own.learning_rates,
        groups=tuple(others),
        steps=len(watch.steps),
        backwards=tuple(step.backwards for step in watch.steps),
        mode=mode,
        resting=resting if mode == "mixed" else (),
        frozen=tuple(name for name, _ in model.named_parameters() if name not in gradients),
        dropout={
            one: rate for call in calls for site, rate in call.rates.items() for one in _sites(site, call.masks[site])
        },
        dtype=watch.dtype,
        losses=tuple(
            LossSeen(name=name, reduction=reduction, label_smoothing=smoothing, weighted=weighted)
            for name, reduction, smoothing, weighted in watch.losses
        ),
        loss_values=tuple(watch.values),
        clip_norm=next((c.bound for c in first.clipped if c.function == "clip_grad_norm_"), None),
        clip_value=next((c.bound for c in first.clipped if c.function == "clip_grad_value_"), None),
        input_shape=tuple(calls[0].inputs[0].shape[1:]),
        batch_size=loaders.sizes[0] if loaders.sizes else None,
        unexplained=tuple(dict.fromkeys(_unexplained(watch, model, images, order, received))),
        notes=tuple(loaders.notes),
    )
    return Judged(facts, order, _noise(calls), {names[name]: value for name, value in watch.first.items()})


def _unexplained(
    watch: Watch,
    model: nn.Module,
    images: Images,
    order: tuple[tuple[int, ...], ...],
    received: Mapping[str, Tensor],
) -> Iterator[str]:
    """What a replay does not know of, one line each."""
    first, names = watch.steps[0], watch.names(model)
    for number, step in enumerate(watch.steps, 1):
        yield from _of_step(number, step, first, images, bool(order[number - 1]))
        if step.changed is not None:
            yield f"gradients are changed after the backward pass ({names[step.changed]}), as DP-SGD does"
        if step.altered is not None:
            since = "what was sent" if number == 1 else f"what step {number - 1} left"
            yield f"step {number} does not start at {since}: {names[step.altered]} was changed in between"
    if watch.taken > len(watch.steps):
        yield f"{watch.taken - len(watch.steps)} of {watch.taken} optimizer steps were not of the model that was sent"
    if any(len(step.calls) > 1 for step in watch.steps) and any(isinstance(m, _BatchNorm) for m in model.modules()):
        yield "batches are added up over several forward passes of a model with batch norm"
    if foreign := received.keys() ^ watch.sent.keys():
        yield f"the reply's arrays are not those that were sent: {', '.join(sorted(foreign)[:4])}"
        return
    for name, value in watch.last.items():
        sent = received[names[name]]
        if not torch.equal(value.to(sent.dtype), sent):
            yield f"what was sent is not what the last step left: {names[name]} was changed after it"
            return


def _of_step(number: int, step: Step, first: Step, images: Images, known: bool) -> Iterator[str]:
    if step.optimizer is not first.optimizer:
        yield f"step {number} is of another optimizer: its state started anew"
    if [group.names for group in step.groups] != [group.names for group in first.groups]:
        yield "the optimizer's groups of parameters change between steps"
    elif (odd := _changing(step, first)) is not None:
        yield f"the optimizer's hyper-parameters change between steps ({odd})"
    if step.gradients != first.gradients:
        missing = sorted(step.gradients ^ first.gradients)[0]
        yield f"{missing} has a gradient in some steps only"
    if step.clipped != first.clipped:
        yield "gradients are clipped in some steps only, or by another bound"
    if len(step.clipped) > 1:
        yield f"gradients are clipped {len(step.clipped)} times in a step"
    for clipped in step.clipped:
        if clipped.order != 2.0:
            yield f"gradients are clipped by their norm of order {clipped.order:g}"
        if clipped.parameters < len(step.gradients):
            yield f"gradients of {clipped.parameters} of {len(step.gradients)} parameters are clipped"
    for call in step.calls:
        if call.resting != first.calls[0].resting:
            yield "modules change between training and evaluation mode from step to step"
        if call.autocast is not None:
            yield f"the client trains under autocast ({call.autocast})"
        if call.hidden:
            yield f"random numbers are drawn in {call.hidden[0]}"
        for site, masks in call.masks.items():
            if len(masks) > 1 and is_a_call(site):
                yield f"the module that calls {site} is run several times in one forward pass"
            elif len(masks) != len(first.calls[0].masks.get(site, masks)):
                yield f"{site} drops more often in one forward pass than in another"
        entered = _entered(call, images)
        if call.masks.keys() != first.calls[0].masks.keys():
            site = sorted(call.masks.keys() ^ first.calls[0].masks.keys())[0]
            yield f"{site} drops in some forward passes only"
        if not known:
            yield "the model is given other images than its DataLoader gave: they are changed in between, by the client"
        elif call.target is not None and (odd := _odd_labels(call.target, images.labels[list(entered.places)])):
            yield odd
        if entered.mean is not None and entered.std is not None:
            seen = f"mean {numbers(entered.mean)} and std {numbers(entered.std)}"
            yield f"the model is given images of {seen}, not {numbers(images.mean)} and {numbers(images.std)} as stated"


def _groups(steps: list[Step]) -> list[GroupSeen]:
    """The optimizer's groups, those that are treated alike as one; the first of its own comes first."""
    found: list[GroupSeen] = []
    for place, group in enumerate(steps[0].groups):
        rates = tuple(step.groups[place].rate for step in steps if place < len(step.groups))
        own = GroupSeen(parameters=group.names, options=group.others, learning_rates=rates)
        alike = [n for n, one in enumerate(found) if replace(one, parameters=own.parameters) == own]
        if alike:
            found[alike[0]] = replace(own, parameters=found[alike[0]].parameters + own.parameters)
        else:
            found.append(own)
    return found


def _changing(step: Step, first: Step) -> str | None:
    """A hyper-parameter that is another than in the first step, the learning rate apart."""
    pairs = zip(step.groups, first.groups, strict=True)
    return next((key for one, other in pairs for key, value in one.others.items() if other.others[key] != value), None)


@dataclass(frozen=True)
class Entered:
    """Which images of the canary a forward pass was given, and normalised by what; of none of them no places."""

    places: tuple[int, ...] = ()
    mean: Tensor | None = None
    std: Tensor | None = None


def _entered(call: Call, images: Images) -> Entered:
    shape = images.pixels.shape[1:]
    batch = next((one for one in call.inputs if len(one) and one.numel() == len(one) * shape.numel()), None)
    if batch is None:
        return Entered()
    close = CLOSE.get(batch.dtype, 2e-2)
    given, known = batch.detach().float().flatten(1), images.normalised().flatten(1)
    nearest, index = torch.cdist(given, known, p=torch.inf).min(dim=1)
    if bool((nearest <= close * known.abs().max()).all()):
        return Entered(tuple(index.tolist()))
    return _otherwise(given.view(-1, *shape).double(), images, close)


def _otherwise(given: Tensor, images: Images, close: float) -> Entered:
    """The same of images that are normalised by another mean and deviation than stated: a line in each channel."""
    pixels = images.scaled().double()
    shapes = [(value - value.mean((2, 3), keepdim=True)).flatten(1) for value in (given, pixels)]
    units = [value / value.norm(dim=1, keepdim=True).clamp_min(1e-12) for value in shapes]
    index = (units[0] @ units[1].T).argmax(dim=1)
    found = pixels[index].transpose(0, 1).flatten(1)
    seen = given.transpose(0, 1).flatten(1)
    centred = found - found.mean(1, keepdim=True)
    slope = (centred * seen).sum(1) / centred.square().sum(1).clamp_min(1e-12)
    start = seen.mean(1) - slope * found.mean(1)
    away = (seen - slope[:, None] * found - start[:, None]).abs().max()
    if away > 10 * close * seen.abs().max() or bool((slope <= 0).any()):
        return Entered()
    return Entered(tuple(index.tolist()), -start / slope, 1 / slope)


def _odd_labels(target: Tensor, labels: Tensor) -> str | None:
    if target.is_floating_point():
        return "labels are turned into probabilities, as mixing or distillation does"
    if target.shape != labels.shape or not torch.equal(target.cpu().long(), labels):
        return "labels are changed between the DataLoader and the loss"
    return None


def _noise(calls: list[Call]) -> dict[str, Tensor]:
    """The masks of all forward passes, (examples of all steps, ...), of the sites that drew in each of them."""
    found: dict[str, list[Tensor]] = {}
    for call in calls:
        for site, masks in call.masks.items():
            for one, mask in zip(_sites(site, masks), masks, strict=True):
                found.setdefault(one, []).append(mask)
    return {site: torch.cat(masks) for site, masks in sorted(found.items())}


def _sites(site: str, masks: Sequence[Tensor]) -> list[str]:
    """What the draws of one forward pass are called: those of a layer that is called several times have numbers."""
    return [site] if len(masks) == 1 else [f"{site}.{number}" for number in range(len(masks))]


def _named(optimizer: Any) -> str:
    kind = type(optimizer)
    place = "torch.optim" if kind.__module__.startswith("torch.optim") else kind.__module__
    return f"{place}.{kind.__qualname__}"

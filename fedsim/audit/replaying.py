"""Whether our picture of a client is the client: its round as a `ClientRound`, replayed, against what it sent.

All that an attacker is told of a client, and all that a sweep over batch sizes rests on, is this picture. Where it is
wrong by more than rounding, an attack that fails says nothing about the client; so it is held against the truth once,
on a canary, and what cannot be replayed is named.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from defenses.client.round import ORDER, replay
from fedsim.audit.facts import Canary
from fedsim.audit.picture import CannotReplay, Picture, named, picture_of

SPREAD = 8.0
"""Two computations of the same in another order differ by no more than so many times what rounding does to one: that is
how far it is from the same in double precision."""

BLURRED = 0.02
"""Where rounding may change this share of an update, an update that is as near as that is no evidence."""

EQUAL = 1e-3
"""So near it is evidence however much rounding may change, as where batch norm divides by next to nothing."""


ALIKE = 1e-3
"""By no more do gradients differ that were computed from the same."""


@dataclass(frozen=True)
class Replayed:
    """How far a replay is from what a client sent.

    Args:
        error: L2 norm of the difference over that of the update; infinite where nothing could be replayed.
        tolerance: what rounding may make of it.
        why: it cannot be replayed: the reason; None: it can.
    """

    error: float
    tolerance: float
    why: str | None = None


def replayed(
    canary: Canary, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Replayed:
    """Replay a canary's round and compare it with what the client sent.

    Args:
        model: the user's, from images to logits; it is left as it is.
        loss: None: the cross-entropy.
    """
    try:
        found = picture_of(canary, model, loss)
    except CannotReplay as reason:
        return Replayed(torch.inf, 0.0, str(reason))
    sent, received = named(model, canary.recorded.sent), named(model, canary.recorded.received)
    update = {name: received[name].double() - sent[name].double() for name in _trained(found)}
    size = max(norm(update), torch.finfo(torch.float64).tiny)
    try:
        ours, finer = _update(found), _update(_in_double(found))
    except RuntimeError as fault:
        line = str(fault).strip().splitlines()[0][:200]
        return Replayed(torch.inf, 0.0, f"torch.func cannot replay the model: {line}")
    error = norm(_minus(update, ours)) / size
    rounded = norm({name: received[name].double() * torch.finfo(received[name].dtype).eps / 2 for name in update})
    tolerance = (SPREAD * norm(_minus(ours, finer)) + rounded) / size
    if error > tolerance:
        return Replayed(error, tolerance, _differing(canary, found))
    if tolerance > BLURRED and error > EQUAL:
        why = f"rounding alone changes its update by up to {tolerance:.0%} (trained in {canary.facts.dtype})"
        return Replayed(error, tolerance, why)
    return Replayed(error, tolerance)


def norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([value.double().square().sum() for value in tensors.values()]).sum().sqrt())


def _trained(picture: Picture) -> list[str]:
    return [name for name, _ in picture.round.model.named_parameters() if name in picture.state]


def _update(picture: Picture) -> dict[str, Tensor]:
    update = replay(picture.round, picture.state, picture.images, picture.labels, picture.drawn).update
    return {name: value.detach().double() for name, value in update.items()}


def _in_double(picture: Picture) -> Picture:
    def double(value: Tensor) -> Tensor:
        return value.double() if value.is_floating_point() else value

    return replace(
        picture,
        round=replace(picture.round, model=copy.deepcopy(picture.round.model).double()),
        state={name: double(value) for name, value in picture.state.items()},
        images=double(picture.images),
        drawn={name: double(value) for name, value in picture.drawn.items()},
    )


def _minus(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value - other[name] for name, value in one.items()}


def _differing(canary: Canary, picture: Picture) -> str:
    """Where a replay parts from the client: in the gradient of its first step, or after it."""
    first = replace(picture.round.local, epochs=None, steps=1)
    size = len(canary.order[0])
    places = picture.drawn[ORDER][:size] if ORDER in picture.drawn else torch.arange(size)
    sites = {site: mask[:size] for site, mask in picture.drawn.items() if site != ORDER}
    one = replace(picture.round, local=first, share="gradient")
    begun = replay(one, picture.state, picture.images[places], picture.labels[places], sites)
    seen = named(picture.round.model, {**canary.recorded.sent, **canary.gradient})
    ours = {name: value.detach().double() for name, value in begun.update.items()}
    seen = {name: seen[name].double() for name in ours}
    tiny = torch.finfo(torch.float64).tiny
    times = sum(float((seen[name] * value).sum()) for name, value in ours.items()) / max(norm(ours) ** 2, tiny)
    away = norm(_minus(seen, ours)) / max(norm(seen), tiny)
    turned = norm(_minus(seen, {name: times * value for name, value in ours.items()})) / max(norm(seen), tiny)
    if away < ALIKE:
        return "its first step's gradient is the replay's, what came of it is not: another optimizer or schedule"
    if turned < ALIKE:
        added = canary.facts.backwards[0]
        of = f", as it adds up {added} backward passes" if added == round(times) > 1 else ""
        return f"the gradient of its first step is {times:.4g} times that of the mean loss over its images{of}"
    said = f", {canary.facts.loss_values[0]:.4g} and {float(begun.loss):.4g}" if canary.facts.loss_values else ""
    return f"the gradient of its first step is off by {away:.1%}: its loss or its model is another (loss{said})"

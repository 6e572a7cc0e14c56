"""How well a simulated update can match an observed one: as far as rounding lets it.

An update has been rounded to the type that it travelled in, a weight delta to that of the *weights*, of which a small
step changes the last digits only; and the simulation has errors of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attacks.objectives import Objective
from attacks.observation import Observation
from attacks.updates import observed_gradient

COMPUTED = 8
"""Units in the last place by which a simulated gradient is wrong."""


def rounding(observation: Observation) -> dict[str, Tensor]:
    """The squared rounding error to expect of each parameter's update, 0-dim float64, once it is read as a gradient if
    it can be: `observed_gradient` says when."""
    eps = torch.finfo(getattr(torch, observation.precision)).eps  # a last place is eps / 2 to eps of a number
    if observation.kind == "gradient":
        return {name: eps**2 / 24 * value.double().square().sum() for name, value in observation.update.items()}
    ulps = {name: eps * (observation.state[name].double() + delta) for name, delta in observation.update.items()}
    still = {name: torch.zeros_like(value) for name, value in ulps.items()}
    if observed_gradient(observation) is not None and observation.local is not None:  # it is linear in the delta
        start = {name: observation.state[name].double() for name in ulps}
        moved, kept = (observation.local.first_gradient(change, start) for change in (ulps, still))
        assert moved is not None
        assert kept is not None
        ulps = {name: value - kept[name] for name, value in moved.items()}
    return {name: value.square().sum() / 24 for name, value in ulps.items()}


def entry_rounding(observation: Observation) -> dict[str, Tensor]:
    """The standard deviation of the rounding of each entry of a weight delta, at most, float64: that of the weights
    before and after, and of the client's own arithmetic on the change."""
    eps = torch.finfo(getattr(torch, observation.precision)).eps
    sizes = {name: (observation.state[name].double().abs(), v.double().abs()) for name, v in observation.update.items()}
    return {name: eps * (weight + 4 * change) / math.sqrt(12) for name, (weight, change) in sizes.items()}


def floor(
    objective: Objective, names: Sequence[str], observed: Mapping[str, Tensor], roundings: Mapping[str, Tensor]
) -> Tensor:
    """What N problems' objective is for the right guess (N,), float64: below it there is nothing more to find.

    Args:
        names: the parameters that are matched, in the objective's order.
        observed: their updates, (N, *shape), in the dtype to work in.
        roundings: of each problem and parameter, (N,), as `rounding` has it.
    """
    norms = torch.stack([_rows(observed[name]).double().square().sum(1) for name in names], dim=1)
    eps = torch.finfo(observed[names[0]].dtype).eps
    relative = max((COMPUTED * eps) ** 2, COMPUTED * torch.finfo(torch.float64).eps)  # objectives cancel in float64
    errors = torch.stack([roundings[name] for name in names], dim=1).double() + relative * norms
    return objective(norms, norms + errors, norms)


def _rows(value: Tensor) -> Tensor:
    """(N, *shape) as (N, entries), also where a parameter is a single number."""
    return value.reshape(len(value), -1)

"""How long an optimisation goes on, and how fast: learning rates, the weight of priors, and when a problem has ended.

Everything is elementwise over the problems: each has its own learning rate, its own plateau, its own end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from attacks.optimisers import State

Stopped = Literal["budget", "converged", "patience", "not_finite"]
"""Why a problem went no further; `state["stopped"]` counts them in this order."""

SETTLED = 100
"""Iterations in which the data term of a problem that goes on converging halves, or it has settled."""

TYPICAL = 0.1
"""The weights of priors are made for data terms that start above this, as cosines of gradients of unlike images do."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast.

    Args:
        iterations: at most this many.
        learning_rate: at the start.
        plateau: after this many iterations without improvement the learning rate falls by a factor of 10.
        patience: after this many iterations without improvement a problem stops.
        tolerance: a problem has converged when the data term of its best iterate, without the priors, is at most this
            share of what it is at a random start and no longer halves in `SETTLED` iterations, or when it is as low as
            its floor. At 0 none does.
    """

    iterations: int = 20_000
    learning_rate: float = 0.1
    plateau: int = 800
    patience: int = 4_000
    tolerance: float = 5e-6


def weight_of(reference: Tensor) -> Tensor:
    """What the priors of problems whose data term is `reference` (N,) at a random start are multiplied by."""
    return (reference / TYPICAL).clamp(0, 1)


def slowed(state: State, loss: Tensor, schedule: Schedule) -> State:
    """Learning rates that fall by 10 on a plateau: PyTorch's ReduceLROnPlateau, one per problem.

    An improvement counts when it is more than 1e-4, relative.
    """
    better = loss < state["plateau"] * (1 - 1e-4)
    bad = torch.where(better, 0, state["bad"] + 1)
    exhausted = bad > schedule.plateau
    lower = exhausted & (0.9 * state["rate"] > 1e-8)
    return {
        "plateau": torch.where(better, loss, state["plateau"]),
        "stale": torch.where(better, 0, state["stale"] + 1),
        "bad": torch.where(exhausted, 0, bad),
        "rate": torch.where(lower, 0.1 * state["rate"], state["rate"]),
    }


def settling(state: State, best: Tensor) -> State:
    """How long each problem's best data term (N,) has not halved."""
    halved = best < state["level"] / 2
    return {
        "level": torch.where(halved, best, state["level"]),
        "settled": torch.where(halved, 0, state["settled"] + 1),
    }


def lightened(state: State) -> State:
    """Priors that have done their work weigh less from then on, where they would outweigh what is left to find.

    They do at first what they are there for. A problem that no longer gets on with them goes on in proportion to its
    own data term; its best iterate so far is judged anew by the same measure.
    """
    due = ~state["light"] & (state["settled"] >= SETTLED)
    weight = torch.where(due, torch.minimum(state["weight"], weight_of(state["reference"])), state["weight"])
    loss = state["best_data"] + weight * state["best_penalty"]
    return {
        "weight": weight,
        "light": state["light"] | due,
        "best_loss": torch.where(due, loss, state["best_loss"]),
        "plateau": torch.where(due, loss, state["plateau"]),
        "settled": torch.where(due, 0, state["settled"]),
    }


def fallen(state: State, schedule: Schedule) -> Tensor:
    """Which problems (N,) have come down to the tolerance."""
    return state["best_data"] <= schedule.tolerance * state["reference"]


def verdict(state: State, schedule: Schedule) -> Tensor:
    """Why each problem stops now, (N,) as places in `Stopped`; 0 where it goes on."""
    settled = fallen(state, schedule) & state["measured"] & state["light"] & (state["settled"] >= SETTLED)
    converged = (settled | (state["best_data"] <= state["floor"])) & (schedule.tolerance > 0)
    reasons = get_args(Stopped)
    why = torch.where(state["stale"] >= schedule.patience, reasons.index("patience"), 0)
    why = torch.where(converged, reasons.index("converged"), why)
    return torch.where(state["loss"].isfinite(), why, reasons.index("not_finite"))

"""One iteration of an iterative attack: N problems (victims x restarts) move together, each as it would alone.

Everything is elementwise over the problems: each has its own learning rate, its own plateau and its own best iterate.
The whole iteration is one pure function of tensors, so that it can be traced, and compiled as one program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.evaluators import Evaluator
from attacks.objectives import Objective
from attacks.optimisers import Adam, Optimiser, State
from attacks.priors import Prior
from attacks.unknowns import Guess, Unknown


@dataclass(frozen=True, kw_only=True)
class Composition:
    """An attack: what is optimised, what is compared, what is believed."""

    unknowns: Sequence[Unknown]
    objective: Objective
    priors: Sequence[Prior] = ()
    optimiser: Optimiser = field(default_factory=Adam)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast.

    Args:
        iterations: at most this many.
        learning_rate: at the start.
        plateau: after this many iterations without improvement the learning rate falls by a factor of 10.
        patience: after this many iterations without improvement a problem stops.
        tolerance: a total loss below it stops a problem.
    """

    iterations: int = 20_000
    learning_rate: float = 0.1
    plateau: int = 800
    patience: int = 4_000
    tolerance: float = 1e-5


class Layout:
    """Where each unknown lies in a problem's row: all unknowns of N problems are one tensor (N, D)."""

    def __init__(self, start: Guess, unknowns: Sequence[Unknown]) -> None:
        self.names = list(start)
        self._shapes = {name: value.shape[1:] for name, value in start.items()}
        self._sizes = [shape.numel() for shape in self._shapes.values()]
        self._owners = [next(unknown for unknown in unknowns if unknown.owns(name)) for name in start]

    def pack(self, guess: Guess) -> Tensor:
        return torch.cat([guess[name].flatten(1) for name in self.names], dim=1)

    def unpack(self, rows: Tensor) -> dict[str, Tensor]:
        """Views of the rows (N, D) by name, (N, ...)."""
        parts = rows.split(self._sizes, dim=1)
        return {name: part.unflatten(1, shape) for (name, shape), part in zip(self._shapes.items(), parts)}

    def guess(self, rows: Tensor) -> dict[str, Tensor]:
        """The values that the rows (N, D) stand for, by name, (N, ...)."""
        parts = zip(self._owners, self.unpack(rows).items())
        return {name: owner.value(name, free) for owner, (name, free) in parts}

    def direct(self, gradient: Tensor) -> Tensor:
        """The descent directions (N, D) that the unknowns make of their gradient."""
        parts = [owner.direction(part) for owner, part in zip(self._owners, gradient.split(self._sizes, dim=1))]
        return torch.cat(parts, dim=1)

    def project(self, rows: Tensor) -> Tensor:
        """The rows (N, D) with every unknown put back into its set."""
        parts = zip(self._owners, self.unpack(rows).items())
        return self.pack({name: owner.project(name, value) for owner, (name, value) in parts})


class Step:
    """One iteration of N problems."""

    def __init__(self, composition: Composition, evaluator: Evaluator, layout: Layout, schedule: Schedule) -> None:
        self._priors, self._optimiser = composition.priors, composition.optimiser
        self._evaluator, self._layout, self._schedule = evaluator, layout, schedule

    def start(self, point: Tensor) -> State:
        """The state before the first iteration, of problems at `point` (N, D)."""

        def each(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.full((len(point),), value, dtype=dtype, device=point.device)

        return {
            "point": point,
            "rate": each(self._schedule.learning_rate),
            "plateau": each(torch.inf),  # the lowest loss, as the plateau rule counts improvements
            "bad": each(0, torch.int64),  # iterations without improvement since the rate last fell
            "stale": each(0, torch.int64),  # iterations without improvement
            "best": point.clone(),
            "best_loss": each(torch.inf),
            "loss": each(torch.inf),
            "iterations": each(0, torch.int64),  # evaluations of the loss until the problem stopped
            "running": each(True, torch.bool),
            **self._optimiser.start(point),
        }

    def __call__(self, state: State, data: Mapping[str, Tensor], known: Guess) -> State:
        """The state after one more iteration. data: the evaluator's; known: the rest of the guess."""
        point, running = state["point"], state["running"]
        with torch.enable_grad():
            free = point.detach().requires_grad_()
            values = self._layout.guess(free)
        guess = {**known, **{name: value.detach() for name, value in values.items()}}
        loss, slopes = self._evaluator.compare(data, guess, self._layout.names)
        [gradient] = torch.autograd.grad([values[name] for name in slopes], [free], list(slopes.values()))
        if self._priors:
            penalty, slope = _penalties(self._priors, known, self._layout, point)
            loss, gradient = loss + penalty, gradient + slope
        improved = running & (loss < state["best_loss"])
        move, own = self._optimiser.move(state, self._layout.direct(gradient))
        after = {
            "point": self._layout.project(point + move),
            "best": torch.where(improved[:, None], point, state["best"]),
            "best_loss": torch.where(improved, loss, state["best_loss"]),
            "loss": loss,
            "iterations": state["iterations"] + running,
            **own,
            **slowed(state, loss, self._schedule),
        }
        goes_on = (loss >= self._schedule.tolerance) & (after["stale"] < self._schedule.patience) & loss.isfinite()
        return {**after, "running": running & goes_on}


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


def _penalties(priors: Sequence[Prior], known: Guess, layout: Layout, point: Tensor) -> tuple[Tensor, Tensor]:
    """What the priors add to the loss (N,) and to its gradient (N, D)."""
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        guess = {**known, **layout.guess(point)}
        penalty = torch.stack([prior(guess) for prior in priors]).sum(0)
        [gradient] = torch.autograd.grad(penalty.sum(), [point])
    return penalty.detach(), gradient

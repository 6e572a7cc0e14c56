"""One optimisation engine for all iterative attacks: N problems (victims x restarts) advance together.

Everything is elementwise over the problems: each has its own learning rate, its own plateau, its own early stop and its
own best iterate, so that a problem's result is the one it would have alone. Problems that have finished are frozen by
masks and removed at the next check; between checks nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Progress
from attacks.evaluators import Evaluator
from attacks.objectives import Objective
from attacks.priors import Prior
from attacks.unknowns import Guess, Unknown

CHECK_EVERY = 10
CURVE_POINTS = 200

Watch = Callable[[int, Tensor, Guess], None]
"""Called before every step with (iteration, problem numbers (M,), their present guess), for measurements only."""


@dataclass(frozen=True, kw_only=True)
class Composition:
    """An attack: what is optimised, what is compared, what is believed."""

    unknowns: Sequence[Unknown]
    objective: Objective
    priors: Sequence[Prior] = ()


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast.

    Args:
        iterations: at most this many.
        learning_rate: of Adam, at the start.
        plateau: after this many iterations without improvement the learning rate falls by a factor of 10.
        patience: after this many iterations without improvement a problem stops.
        tolerance: a total loss below it stops a problem.
    """

    iterations: int = 20_000
    learning_rate: float = 0.1
    plateau: int = 800
    patience: int = 4_000
    tolerance: float = 1e-5


@dataclass(frozen=True)
class Solution:
    """Each problem's best iterate, by its own loss.

    Args:
        guess: by name, (N, ...), unknowns only.
        loss: (N,) float64; infinite where the loss was never finite.
        iterations: (N,) evaluations of the loss until the problem stopped.
        curves: per problem, its loss over the iterations, thinned.
    """

    guess: dict[str, Tensor]
    loss: Tensor
    iterations: Tensor
    curves: list[list[tuple[int, float]]]


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

    def direct(self, gradient: Tensor) -> Tensor:
        """The descent directions (N, D) that the unknowns make of their gradient."""
        parts = [owner.direction(part) for owner, part in zip(self._owners, gradient.split(self._sizes, dim=1))]
        return torch.cat(parts, dim=1)

    def project_(self, rows: Tensor) -> None:
        """Put every unknown back into its set, in place."""
        for owner, (name, value) in zip(self._owners, self.unpack(rows).items()):
            value.copy_(owner.project(name, value))


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) over rows (N, D), with one learning rate per row."""

    def __init__(self, point: Tensor) -> None:
        self._first, self._second = torch.zeros_like(point), torch.zeros_like(point)
        self._steps = 0

    def step_(self, point: Tensor, direction: Tensor, rate: Tensor) -> None:
        """Move the point in place. rate: (N,)."""
        self._steps += 1
        first_bias, second_bias = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        self._first.lerp_(direction, 0.1)
        self._second.mul_(0.999).addcmul_(direction, direction, value=0.001)
        scale = self._second.sqrt().div_(second_bias**0.5).add_(1e-8)
        point.sub_((self._first / scale).mul_((rate / first_bias).to(point.dtype)[:, None]))

    def keep(self, problems: Tensor) -> None:
        self._first, self._second = self._first[problems], self._second[problems]


class Plateau:
    """Learning rates that fall by 10 on a plateau, one per problem: PyTorch's ReduceLROnPlateau."""

    def __init__(self, problems: int, schedule: Schedule, device: torch.device) -> None:
        self._patience = schedule.plateau
        self.rate = torch.full((problems,), schedule.learning_rate, dtype=torch.float64, device=device)
        self.stale = torch.zeros(problems, dtype=torch.int64, device=device)
        """Iterations since the last improvement by more than 1e-4, relative."""
        self._best = torch.full((problems,), torch.inf, dtype=torch.float64, device=device)
        self._bad = torch.zeros(problems, dtype=torch.int64, device=device)

    def step(self, loss: Tensor) -> None:
        better = loss < self._best * (1 - 1e-4)
        self._best = torch.where(better, loss, self._best)
        self.stale = torch.where(better, 0, self.stale + 1)
        self._bad = torch.where(better, 0, self._bad + 1)
        exhausted = self._bad > self._patience
        lower = exhausted & (0.9 * self.rate > 1e-8)
        self.rate = torch.where(lower, 0.1 * self.rate, self.rate)
        self._bad = torch.where(exhausted, 0, self._bad)

    def keep(self, problems: Tensor) -> None:
        self.rate, self.stale = self.rate[problems], self.stale[problems]
        self._best, self._bad = self._best[problems], self._bad[problems]


@torch.no_grad()
def solve(
    composition: Composition,
    evaluator: Evaluator,
    start: Guess,
    known: Guess,
    schedule: Schedule,
    *,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Solution:
    """Minimise `objective(update(guess), observed update) + priors(guess)` for N problems at once.

    Args:
        evaluator: of these N problems and the composition's objective; it is used up.
        start: the unknowns' initial values by name, (N, ...), on the device and in the dtype to work in.
        known: the rest of the guess, (N, ...).
    """
    layout = Layout(start, composition.unknowns)
    point = layout.pack(start)
    total, device = len(point), point.device
    adam, plateau = Adam(point), Plateau(total, schedule, device)
    numbers = torch.arange(total, device=device)  # which problem each row is
    running = torch.ones(total, dtype=torch.bool, device=device)
    iterations = torch.zeros(total, dtype=torch.int64, device=device)
    best = point.clone()
    best_loss = torch.full((total,), torch.inf, dtype=torch.float64, device=device)
    final = best.clone(), best_loss.clone(), iterations.clone()
    curve: list[tuple[int, Tensor, Tensor]] = []
    curve_every = max(1, schedule.iterations // CURVE_POINTS)

    def retire(rows: Tensor) -> None:
        for whole, part in zip(final, (best, best_loss, iterations)):
            whole[numbers[rows]] = part[rows]

    for iteration in range(schedule.iterations):
        guess = {**known, **layout.unpack(point)}
        if watch is not None:
            watch(iteration, numbers, guess)
        loss, gradients = evaluator(guess, layout.names)
        gradient = layout.pack(gradients)
        if composition.priors:
            penalty, slope = _penalties(composition.priors, known, layout, point)
            loss, gradient = loss + penalty, gradient + slope

        iterations += running
        improved = running & (loss < best_loss)
        best_loss = torch.where(improved, loss, best_loss)
        best = torch.where(improved[:, None], point, best)
        if iteration % curve_every == 0:
            curve.append((iteration, numbers[running], loss[running]))
        adam.step_(point, layout.direct(gradient), plateau.rate)
        layout.project_(point)
        plateau.step(loss)
        running &= (loss >= schedule.tolerance) & (plateau.stale < schedule.patience) & loss.isfinite()

        if (iteration + 1) % CHECK_EVERY == 0:
            if progress is not None and (iteration + 1) % (10 * CHECK_EVERY) == 0:
                progress(iteration + 1, schedule.iterations, best_loss.median().item())
            if running.all():
                continue
            retire((~running).nonzero().flatten())
            left = running.nonzero().flatten()
            numbers, running, iterations = numbers[left], running[left], iterations[left]
            if not len(left):
                break
            point, best, best_loss = point[left], best[left], best_loss[left]
            known = {name: value[left] for name, value in known.items()}
            for part in (adam, plateau, evaluator):
                part.keep(left)
    retire(torch.arange(len(numbers), device=device))

    points, losses, counts = final
    if progress is not None:
        progress(schedule.iterations, schedule.iterations, losses.median().item())
    curves: list[list[tuple[int, float]]] = [[] for _ in range(total)]
    for iteration, rows, values in curve:
        for number, value in zip(rows.tolist(), values.tolist()):
            curves[number].append((iteration, value))
    return Solution(layout.unpack(points), losses, counts, curves)


def _penalties(priors: Sequence[Prior], known: Guess, layout: Layout, point: Tensor) -> tuple[Tensor, Tensor]:
    """What the priors add to the loss (N,) and to its gradient (N, D)."""
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        guess = {**known, **layout.unpack(point)}
        penalty = torch.stack([prior(guess) for prior in priors]).sum(0)
        [gradient] = torch.autograd.grad(penalty.sum(), [point])
    return penalty.detach(), gradient

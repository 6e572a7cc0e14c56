"""One optimisation engine for all iterative attacks: N problems (victims x restarts) advance together.

Everything is elementwise over the problems: each has its own learning rate, its own plateau, its own early stop and its
own best iterate, so that a problem's result is the one it would have alone. Problems that have finished are frozen by
masks and removed at the next check; between checks nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) over named tensors (N, ...), with one learning rate per problem."""

    def __init__(self, point: Mapping[str, Tensor]) -> None:
        self._first = {name: torch.zeros_like(value) for name, value in point.items()}
        self._second = {name: torch.zeros_like(value) for name, value in point.items()}
        self._steps = 0

    def step(self, point: Mapping[str, Tensor], directions: Mapping[str, Tensor], rate: Tensor) -> None:
        """Move each tensor of `point` in place. rate: (N,)."""
        self._steps += 1
        first_bias, second_bias = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        for name, direction in directions.items():
            first, second = self._first[name], self._second[name]
            first.lerp_(direction, 0.1)
            second.mul_(0.999).addcmul_(direction, direction, value=0.001)
            scale = second.sqrt().div_(second_bias**0.5).add_(1e-8)
            point[name].sub_(first.div(scale).mul_(per_problem(rate / first_bias, first)))

    def keep(self, problems: Tensor) -> None:
        self._first = {name: value[problems] for name, value in self._first.items()}
        self._second = {name: value[problems] for name, value in self._second.items()}


class Plateau:
    """Learning rates that fall by 10 on a plateau, as PyTorch's ReduceLROnPlateau with its defaults; one per problem."""

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
        evaluator: made for these N problems; it is used up.
        start: the unknowns' initial values by name, (N, ...), on the device and in the dtype to work in.
        known: the rest of the guess, (N, ...).
    """
    owner = {name: unknown for unknown in composition.unknowns for name in start if unknown.owns(name)}
    total = len(next(iter(start.values())))
    device = next(iter(start.values())).device
    point = {name: value.clone().requires_grad_() for name, value in start.items()}
    adam, plateau = Adam(point), Plateau(total, schedule, device)
    numbers = torch.arange(total, device=device)  # which problem each row is
    running = torch.ones(total, dtype=torch.bool, device=device)
    best = {name: value.clone() for name, value in start.items()}
    best_loss = torch.full((total,), torch.inf, dtype=torch.float64, device=device)
    iterations = torch.zeros(total, dtype=torch.int64, device=device)

    answer = Solution({name: value.clone() for name, value in start.items()}, best_loss.clone(), iterations.clone(), [])
    curve: list[tuple[int, Tensor, Tensor]] = []
    curve_every = max(1, schedule.iterations // CURVE_POINTS)

    def retire(rows: Tensor) -> None:
        done = numbers[rows]
        for name, value in best.items():
            answer.guess[name][done] = value[rows]
        answer.loss[done], answer.iterations[done] = best_loss[rows], iterations[rows]

    for iteration in range(schedule.iterations):
        if watch is not None:
            watch(iteration, numbers, {**known, **{name: value.detach() for name, value in point.items()}})
        guess = {**known, **point}
        inner, simulated = evaluator(guess)
        loss = composition.objective(inner, simulated, evaluator.observed)
        for prior in composition.priors:
            loss = loss + prior(guess)
        gradients = torch.autograd.grad(loss.sum(), list(point.values()))

        with torch.no_grad():
            loss = loss.detach()
            iterations += running
            improved = running & (loss < best_loss)
            best_loss = torch.where(improved, loss, best_loss)
            best = {n: torch.where(per_problem(improved, value), point[n], value) for n, value in best.items()}
            if iteration % curve_every == 0:
                curve.append((iteration, numbers[running], loss[running]))

            directions = {name: owner[name].direction(g) for name, g in zip(point, gradients)}
            adam.step(point, directions, plateau.rate)
            for name, value in point.items():
                value.copy_(owner[name].project(name, value))
            plateau.step(loss)
            running &= (loss >= schedule.tolerance) & (plateau.stale < schedule.patience) & loss.isfinite()

            if (iteration + 1) % CHECK_EVERY == 0:
                if progress is not None and (iteration + 1) % (10 * CHECK_EVERY) == 0:
                    progress(iteration + 1, schedule.iterations, best_loss.median().item())
                if not running.all():
                    retire((~running).nonzero().flatten())
                    left = running.nonzero().flatten()
                    if not len(left):
                        break
                    numbers, running, best_loss, iterations = (
                        value[left] for value in (numbers, running, best_loss, iterations)
                    )
                    best = {name: value[left] for name, value in best.items()}
                    known = {name: value[left] for name, value in known.items()}
                    point = {name: value.detach()[left].requires_grad_() for name, value in point.items()}
                    for part in (adam, plateau, evaluator):
                        part.keep(left)
    else:
        retire(torch.arange(len(numbers), device=device))

    if progress is not None:
        progress(schedule.iterations, schedule.iterations, answer.loss.median().item())
    answer.curves.extend([] for _ in range(total))
    for iteration, rows, losses in curve:
        for number, value in zip(rows.tolist(), losses.tolist()):
            answer.curves[number].append((iteration, value))
    return answer


def per_problem(value: Tensor, like: Tensor) -> Tensor:
    """One number per problem (N,), shaped and typed to act on a tensor (N, ...); masks stay masks."""
    shaped = value.view(-1, *[1] * (like.dim() - 1))
    return shaped if value.dtype == torch.bool else shaped.to(like.dtype)

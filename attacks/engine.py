"""One optimisation engine for all iterative attacks: N problems (victims x restarts) advance together.

A problem's result is the one it would have alone. Problems that have finished are frozen and removed at the next check;
between checks nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from attacks.base import Compile, Progress
from attacks.evaluators import Evaluator
from attacks.layout import Layout
from attacks.pace import Schedule, Stopped
from attacks.program import Program
from attacks.step import Composition, Step
from attacks.unknowns import Guess

__all__ = ["Composition", "Schedule", "Solution", "Watch", "solve"]

CHECK_EVERY = 10
CURVE_POINTS = 200

Watch = Callable[[int, Tensor, Guess], None]
"""Called before every step with (iteration, problem numbers (M,), their present guess), for measurements only."""

Redraw = Callable[[Sequence[int]], Guess]
"""From problem numbers to a part of their guess that is another one in each iteration, (M, ...)."""


@dataclass(frozen=True)
class Solution:
    """Each problem's best iterate, by its own loss.

    Args:
        guess: by name, (N, ...), unknowns only.
        free: what was optimised, by its own names, (N, ...), that this is a function of.
        loss: (N,) float64; infinite where the loss was never finite.
        iterations: (N,) evaluations of the loss until the problem stopped.
        stopped: per problem, why it went no further.
        curves: per problem, its loss over the iterations, thinned.
        compile_seconds: spent on compiling, not on iterations; 0 where nothing was compiled.
    """

    guess: dict[str, Tensor]
    free: dict[str, Tensor]
    loss: Tensor
    iterations: Tensor
    stopped: list[Stopped]
    curves: list[list[tuple[int, float]]]
    compile_seconds: float

    def after(self, first: Solution) -> Solution:
        """This one, that began where another had ended."""
        begun = first.iterations.tolist()
        curves = [
            [*earlier, *((done + at, loss) for at, loss in later)]
            for earlier, later, done in zip(first.curves, self.curves, begun)
        ]
        seconds = first.compile_seconds + self.compile_seconds
        return replace(self, iterations=first.iterations + self.iterations, curves=curves, compile_seconds=seconds)


@torch.no_grad()
def solve(
    composition: Composition,
    evaluator: Evaluator,
    start: Guess,
    known: Guess,
    schedule: Schedule,
    *,
    cold: Guess,
    floor: Tensor,
    restarts: int = 1,
    compile: Compile = "never",
    progress: Progress | None = None,
    watch: Watch | None = None,
    redraw: Redraw | None = None,
) -> Solution:
    """Minimise `objective(update(guess), observed update) + priors(guess)` for N problems at once.

    Args:
        evaluator: of these N problems and the composition's objective.
        start: what is optimised at first by name, (N, ...), on the device and in the dtype to work in.
        known: the rest of the guess, (N, ...).
        cold: a random start, as `start`: what the data term is there says how far it has to fall.
        floor: (N,) float64, the data term that rounding alone explains.
        restarts: how many problems, one after the other, are restarts of one another.
        compile: see `attacks.program`.
    """
    layout = Layout(start, composition.unknowns)
    problems = len(next(iter(start.values())))
    step = Step(composition, evaluator, layout, schedule, problems=problems, restarts=restarts)
    program = Program(step, compile, schedule.iterations)
    data, known, random = evaluator.data, dict(known), layout.guess(layout.pack(cold))
    reference, _ = evaluator.compare(data, {**known, **random}, layout.told)
    state, images = step.start(layout.pack(start), reference, floor), {"images": random["images"]}
    total, device = len(state["point"]), state["point"].device
    numbers = torch.arange(total, device=device)  # which problem each row is
    listed = list(range(total))  # the same, for whoever asks on the processor
    final = {name: state[name].clone() for name in ("best", "best_loss", "iterations", "stopped")}
    curve: list[tuple[int, Tensor, Tensor, Tensor]] = []
    curve_every = max(1, schedule.iterations // CURVE_POINTS)

    def retire(rows: Tensor) -> None:
        for name, whole in final.items():
            whole[numbers[rows]] = state[name][rows]

    for iteration in range(schedule.iterations):
        if redraw is not None and iteration:
            known |= redraw(listed)
        if watch is not None:
            watch(iteration, numbers, {**known, **layout.guess(state["point"])})
        running = state["running"]
        state = program(state, data, known)
        if iteration % curve_every == 0:
            curve.append((iteration, numbers, running, state["loss"]))

        if (iteration + 1) % CHECK_EVERY == 0:
            if progress is not None and (iteration + 1) % (10 * CHECK_EVERY) == 0:
                progress(iteration + 1, schedule.iterations, state["best_loss"].median().item())
            if len(unsure := step.unsure(state).nonzero().flatten()):
                again = step.measured(*(_rows(part, unsure) for part in (state, data, known, images)))
                state = {name: value.index_copy(0, unsure, again[name]) for name, value in state.items()}
            left = state["running"].nonzero().flatten()
            if not len(left):
                break
            if (size := program.size(len(left), len(numbers))) < len(numbers):
                finished = (~state["running"]).nonzero().flatten()
                retire(finished)
                kept = torch.cat([left, finished[: size - len(left)]])
                numbers = numbers[kept]
                listed = numbers.tolist()
                state, data, known, images = (_rows(part, kept) for part in (state, data, known, images))
    retire(torch.arange(len(numbers), device=device))

    losses, counts = final["best_loss"], final["iterations"]
    if progress is not None:
        progress(schedule.iterations, schedule.iterations, losses.median().item())
    curves: list[list[tuple[int, float]]] = [[] for _ in range(total)]
    for iteration, rows, running, values in curve:
        for number, value in zip(rows[running].tolist(), values[running].tolist()):
            curves[number].append((iteration, value))
    stopped = [get_args(Stopped)[reason] for reason in final["stopped"].tolist()]
    best = final["best"]
    return Solution(
        layout.guess(best), layout.unpack(best), losses, counts, stopped, curves, program.compile_seconds
    )


def _rows(tensors: Guess, kept: Tensor) -> dict[str, Tensor]:
    return {name: value[kept] for name, value in tensors.items()}

"""How the engine's iterations are run: as they are, or traced and compiled into one program.

An iteration contains two nested gradients, which `torch.compile` cannot look through. So it is first traced into a flat
graph of tensor operations by `make_fx`, backward passes included, and the graph is compiled.

    auto     run as it is at first; compile once the iterations to expect are seen to gain more than compiling costs
    always   compile
    never    run as it is

Local steps are unrolled in the graph, so that it grows with them. One of too many operations is not compiled: by the
cost that is estimated here that would take minutes. If it is local steps that make it long, one of them is compiled by
itself in its place (`attacks.local_step`), which gains less: each then reads and writes its own weights.

How many iterations to expect is not how many there may be: most problems converge long before. At first it is what is
usual; a problem that has gone on for longer is expected to take as long again. Costs are counted in operations, never
in time: the same scenario must take the same path, and give the same table, each time it is run on a machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from attacks.base import Compile
from attacks.optimisers import State
from attacks.step import Step
from attacks.unknowns import Guess

log = logging.getLogger(__name__)

Iterate = Callable[[State, Mapping[str, Tensor], Guess], State]

SHRINK = 4
"""A compiled program serves one number of problems. It goes on with finished ones among them until so many times fewer
are left, and is then compiled again for those where that is worth it: few sizes, each worth its compilation."""

SECONDS_PER_OPERATION = 4e-6
SECONDS_PER_ELEMENT = 2e-9
COMPILE_SECONDS_PER_OPERATION = 0.045
"""Rough costs on a processor of today, the compiler's cache cold."""

MOST_OPERATIONS = 7_000
"""No longer iteration is compiled, nor local step. One of a ResNet18 has 5,100, of a ViT 4,100, of an MLP with 1, 8 and
20 local steps 540, 3,400 and 8,300."""

USUAL = 2_000
"""Iterations that problems take."""

DECIDE_EVERY = 100
"""Iterations between two looks at whether to compile; none before the first."""


class Program:
    """Runs iterations of a step, and decides for each number of problems how."""

    def __init__(self, step: Step, compile: Compile, iterations: int) -> None:
        self._step, self._compile, self._most = step, compile, iterations
        self._programs: dict[int, Iterate] = {}  # those compiled, by the number of problems
        self._done = 0
        self._costs: _Costs | None = None
        self.compile_seconds = 0.0

    def __call__(self, state: State, data: Mapping[str, Tensor], known: Guess) -> State:
        size = len(state["point"])
        if size not in self._programs and self._decides():
            self._costs = self._costs or self._counted(state, data, known)
            if self._costs.operations <= MOST_OPERATIONS and (
                self._programs or self._compile == "always" or self._pays(self._costs.seconds(size) / 2)
            ):
                self._programs[size] = self._prepare(state, data, known)
        self._done += 1
        return self._programs.get(size, self._step)(state, data, known)

    def size(self, running: int, present: int) -> int:
        """How many problems to go on with, of those present, so that all that are running are among them."""
        if self._programs.get(present, self._step) is self._step or self._costs is None:
            return running
        if running * SHRINK > present:
            return present
        fewer = max(running, present // SHRINK)
        return fewer if self._pays((present - fewer) * self._costs.problem / 2) else present

    def _decides(self) -> bool:
        """Whether it is time to look at a number of problems that has no program yet.

        Once there is one, fewer problems are only gone on with where a program of their own pays.
        """
        if self._programs or self._compile == "always":
            return True
        return self._compile == "auto" and self._done > 0 and self._done % DECIDE_EVERY == 0

    def _counted(self, state: State, data: Mapping[str, Tensor], known: Guess) -> _Costs:
        with self._step.in_one_piece():
            costs = _Costs.of(self._step, state, data, known)
        steps = self._step.local_steps(state, known)
        if costs.operations > MOST_OPERATIONS and steps > 1:
            costs = replace(costs, operations=costs.operations // steps, apart=True)
        if costs.operations > MOST_OPERATIONS and self._compile == "always":
            log.warning("the iterations are not compiled: each has %d operations, too many", costs.operations)
        return costs

    def _pays(self, gain: float) -> bool:
        """Whether so many seconds an iteration, over all that are to be expected, are more than compiling costs."""
        assert self._costs is not None
        expected = min(self._most - self._done, max(USUAL - self._done, self._done))
        log.debug("compiling would cost %.0f s and gain %.0f s", self._costs.compiling, expected * gain)
        return expected * gain > self._costs.compiling

    def _prepare(self, state: State, data: Mapping[str, Tensor], known: Guess) -> Iterate:
        begin = time.perf_counter()
        assert self._costs is not None
        compiled = None
        if self._costs.apart:
            if not self._programs:  # they serve any number of problems
                self._step.compile_local_steps(len(state["point"]))
                self._step(state, data, known)
        else:
            with self._step.in_one_piece():
                compiled = _compiled(self._step, state, data, known)
        self.compile_seconds += time.perf_counter() - begin
        log.info("compiled an iteration of %d problems in %.0f s", len(state["point"]), self.compile_seconds)
        return compiled or self._step


@dataclass(frozen=True)
class _Costs:
    """Estimates in seconds of an iteration of one problem, and of each further one (compiled it takes about half); and
    the operations of what would be compiled, which may be one local step apart from the iteration."""

    first: float
    problem: float
    operations: int
    apart: bool = False

    @property
    def compiling(self) -> float:
        """Seconds that it takes to compile."""
        return COMPILE_SECONDS_PER_OPERATION * self.operations

    @classmethod
    def of(cls, step: Step, state: State, data: Mapping[str, Tensor], known: Guess) -> _Costs:
        every, one = _Count(), _Count()
        with every:
            step(state, data, known)
        with one:
            step(*({name: value[:1] for name, value in part.items()} for part in (state, data, known)))
        problem = (every.seconds - one.seconds) / max(1, len(state["point"]) - 1)
        return cls(one.seconds, problem, every.operations)

    def seconds(self, problems: int) -> float:
        return self.first + (problems - 1) * self.problem


class _Count(TorchDispatchMode):
    """Counts the operations that pass, and the elements they write."""

    operations = elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        if isinstance(result, Tensor) and not func.is_view:
            self.elements += result.numel()
        return result

    @property
    def seconds(self) -> float:
        return SECONDS_PER_OPERATION * self.operations + SECONDS_PER_ELEMENT * self.elements


def _compiled(step: Step, state: State, data: Mapping[str, Tensor], known: Guess) -> Iterate | None:
    """The step for inputs of these shapes; None, with a warning, where it cannot be compiled."""
    inputs = (state, dict(data), dict(known))
    try:
        graph = make_fx(step)(*inputs)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        program = torch.compile(graph, dynamic=False, fullgraph=True)
        program(*inputs)
    except Exception as fault:  # no C++ compiler, or an operation that the compiler does not know: it only costs time
        log.warning("the iterations are not compiled, and slower for it: %s", " ".join(str(fault).split())[:200])
        return None
    return lambda state, data, known: program(state, dict(data), dict(known))

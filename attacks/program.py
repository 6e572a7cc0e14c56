"""How the engine's iterations are run: as they are, or traced and compiled into one program.

An iteration contains two nested gradients, which `torch.compile` cannot look through. So it is first traced into a flat
graph of tensor operations by `make_fx`, backward passes included, and the graph is compiled.

    auto     compile where the iterations to come are estimated to take much longer than compiling
    always   compile
    never    run as it is

The estimate counts operations, never time: the same scenario must take the same path, and give the same table, each
time it is run on a machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
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

SECONDS_PER_OPERATION = 1e-5
SECONDS_PER_ELEMENT = 2e-9
COMPILE_SECONDS_PER_OPERATION = 0.08
"""Rough costs on a processor of today."""


class Program:
    """Runs iterations of a step, and decides for each number of problems how."""

    def __init__(self, step: Step, compile: Compile, iterations: int) -> None:
        self._step, self._compile, self._left = step, compile, iterations
        self._programs: dict[int, Iterate] = {}
        self._compile_cost = self._problem_cost = 0.0  # estimates: seconds, and seconds an iteration
        self.compile_seconds = 0.0

    def __call__(self, state: State, data: Mapping[str, Tensor], known: Guess) -> State:
        size = len(state["point"])
        if size not in self._programs:
            self._programs[size] = self._prepare(state, data, known)
        self._left -= 1
        return self._programs[size](state, data, known)

    def size(self, running: int, present: int) -> int:
        """How many problems to go on with, of those present, so that all that are running are among them."""
        if self._programs.get(present, self._step) is self._step:
            return running
        if running * SHRINK > present:
            return present
        fewer = max(running, present // SHRINK)
        return fewer if self._pays((present - fewer) * self._problem_cost) else present

    def _prepare(self, state: State, data: Mapping[str, Tensor], known: Guess) -> Iterate:
        if self._compile == "never":
            return self._step
        gain = self._estimate(state, data, known)
        if self._compile == "auto" and not self._pays(gain):
            return self._step
        begin = time.perf_counter()
        compiled = _compiled(self._step, state, data, known)
        self.compile_seconds += time.perf_counter() - begin
        log.info("compiled an iteration of %d problems in %.0f s", len(state["point"]), self.compile_seconds)
        return compiled or self._step

    def _estimate(self, state: State, data: Mapping[str, Tensor], known: Guess) -> float:
        """Seconds an iteration that compiling gains: it about halves the time. Takes down what compiling costs."""
        problems = len(state["point"])
        every, one = _Count(), _Count()
        with every:
            self._step(state, data, known)
        with one:
            self._step(*({name: value[:1] for name, value in part.items()} for part in (state, data, known)))
        self._compile_cost = COMPILE_SECONDS_PER_OPERATION * every.operations
        self._problem_cost = (every.seconds - one.seconds) / max(1, problems - 1) / 2
        return every.seconds / 2

    def _pays(self, gain: float) -> bool:
        """Whether so many seconds an iteration, over all that may come, are twice what compiling costs."""
        log.info("compiling would cost %.0f s and gain %.0f s", self._compile_cost, self._left * gain)
        return self._left * gain > 2 * self._compile_cost


class _Count(TorchDispatchMode):
    """Counts the operations that pass, and the elements they write."""

    operations = elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        if isinstance(result, Tensor):
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

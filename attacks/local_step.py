"""One local step of a client and its vector-Jacobian product, each compiled once for all steps of a round.

Whoever differentiates a round of many steps unrolls it: the graph grows with the steps, and compiling it takes minutes.
But every step is the same function of the weights, the optimizer's state, a batch and its noise. So that function is
compiled, and the product that takes a gradient behind a step to one before it; the chain of steps stays autograd's. The
product computes the step again from what entered it: nothing else of a step is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

log = logging.getLogger(__name__)

Function = Callable[..., tuple[Tensor, ...]]
"""Of tensors."""

FEW = 4
"""So many times fewer problems than a program serves are quicker without it."""


class LocalSteps:
    """Runs local steps (`defenses.client.round.RunStep`) of problems side by side: inside `grad`, inside `vmap`.

    Args:
        problems: at most so many are side by side. A program serves this number, and fewer with others beside them.
    """

    def __init__(self, problems: int) -> None:
        self.problems = problems
        self._programs: dict[object, _Programs] = {}

    def __call__(self, step: Callable[..., Any], inputs: Any) -> Any:
        leaves, nest = _flat(inputs)
        numbers = frozenset(i for i, leaf in enumerate(leaves) if isinstance(leaf, float))
        run = _Run(self, step, nest, numbers)
        found = _Forward.apply(run, *map(_tensor, leaves))  # type: ignore[no-untyped-call]
        assert run.output is not None
        return run.output.of(found)

    def programs(self, run: _Run, inputs: Sequence[Tensor]) -> _Programs:
        """Those of this step for inputs of these shapes, (problems, ...) each."""
        key = (str(run.nest), tuple((value.shape, value.dtype, value.device) for value in inputs))
        if key not in self._programs:
            self._programs[key] = _compiled(run, inputs)
        return self._programs[key]


@dataclass(frozen=True)
class _Nest:
    """How tensors are put together, and what stands between them, by its place among all: None, whole numbers."""

    structure: pytree.TreeSpec
    between: dict[int, object]

    @property
    def tensors(self) -> int:
        """How many there are."""
        return self.structure.num_leaves - len(self.between)

    def of(self, tensors: Sequence[Tensor]) -> Any:
        left = iter(tensors)
        every = [self.between[i] if i in self.between else next(left) for i in range(self.structure.num_leaves)]
        return pytree.tree_unflatten(every, self.structure)


def _flat(nested: Any) -> tuple[list[Tensor | float], _Nest]:
    leaves, structure = pytree.tree_flatten(nested)
    between = {i: leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, Tensor | float)}
    return [leaf for i, leaf in enumerate(leaves) if i not in between], _Nest(structure, between)


def _tensor(leaf: Tensor | float) -> Tensor:
    return leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, dtype=torch.float64)  # all of a number's digits


@dataclass(frozen=True)
class _Programs:
    """Of a step and of its product, for problems side by side; and how what the step gives is put together."""

    forward: Function
    backward: Function
    output: _Nest


class _Run:
    """One call of a step.

    Args:
        nest: of its inputs.
        numbers: places of the inputs that are the same for all problems.
    """

    def __init__(self, steps: LocalSteps, step: Callable[..., Any], nest: _Nest, numbers: frozenset[int]) -> None:
        self.steps, self.step, self.nest, self.numbers = steps, step, nest, numbers
        self.output: _Nest | None = None

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Of one problem."""
        outputs, self.output = _flat(self.step(*self.nest.of(inputs)))
        return tuple(map(_tensor, outputs))

    def moving(self, inputs: Sequence[Tensor]) -> list[int]:
        """The places of the inputs in which the step is differentiated."""
        return [i for i, value in enumerate(inputs) if value.is_floating_point() and i not in self.numbers]

    def backward(self, *both: Tensor) -> tuple[Tensor, ...]:
        """Of one problem: from the inputs, and the gradients in the outputs after them, to those in `moving` inputs."""
        inputs, slopes = both[: self.nest.tensors], both[self.nest.tensors :]
        moving = self.moving(inputs)

        def of(*some: Tensor) -> tuple[Tensor, ...]:
            every = list(inputs)
            for place, value in zip(moving, some):
                every[place] = value
            return self.forward(*every)

        product = vjp(of, *(inputs[place] for place in moving))[1]
        return tuple(product(slopes))

    def together(self, function: Function, count: int) -> Function:
        """The function of one problem, for all side by side; count: of its arguments."""
        return vmap(function, in_dims=tuple(None if i in self.numbers else 0 for i in range(count)))

    def side_by_side(self, size: int, places: Sequence[int | None], values: Sequence[Tensor]) -> list[Tensor]:
        """What `vmap` gives, with the problems first. Every step has its inputs alike, the first one too."""
        return [
            value
            if i in self.numbers
            else value.expand(size, *value.shape).contiguous()
            if place is None
            else value.movedim(place, 0).contiguous()
            for i, (place, value) in enumerate(zip(places, values, strict=True))
        ]


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(run: _Run, *inputs: Tensor) -> tuple[Tensor, ...]:
        return run.forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.run = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        found = iter(_Backward.apply(ctx.run, *inputs, *slopes))  # type: ignore[no-untyped-call]
        moving = set(ctx.run.moving(inputs))
        return (None, *(next(found) if i in moving else None for i in range(len(inputs))))

    @staticmethod
    def vmap(info: Any, places: Sequence[int | None], run: _Run, *inputs: Tensor) -> tuple[tuple[Tensor, ...], Any]:
        return _together(run, info.batch_size, places[1:], inputs, "forward")


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(run: _Run, *both: Tensor) -> tuple[Tensor, ...]:
        return run.backward(*both)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing: nobody differentiates an attack's gradient."""

    @staticmethod
    def vmap(info: Any, places: Sequence[int | None], run: _Run, *both: Tensor) -> tuple[tuple[Tensor, ...], Any]:
        return _together(run, info.batch_size, places[1:], both, "backward")


Which = Literal["forward", "backward"]


def _together(
    run: _Run, size: int, places: Sequence[int | None], values: Sequence[Tensor], which: Which
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """What `vmap` asks for: the outputs of all problems, and where in them the problems are."""
    batched = run.side_by_side(size, places, values)
    found = _served(run, batched, size, which)
    if found is None:
        found = run.together(getattr(run, which), len(batched))(*batched)
    return found, (0,) * len(found)


def _served(run: _Run, batched: Sequence[Tensor], size: int, which: Which) -> tuple[Tensor, ...] | None:
    """What a program makes of inputs (size, ...), others set beside them; None where they are too few for it."""
    missing = run.steps.problems - size
    if size * FEW <= run.steps.problems:
        return None
    full = [
        value if i in run.numbers or not missing else torch.cat([value, value[:1].expand(missing, *value.shape[1:])])
        for i, value in enumerate(batched)
    ]
    programs = run.steps.programs(run, full[: run.nest.tensors])
    run.output = programs.output
    with torch.no_grad():
        return tuple(value[:size] for value in getattr(programs, which)(*full))


@torch.no_grad()
def _compiled(run: _Run, inputs: Sequence[Tensor]) -> _Programs:
    """The step as it is, with a warning, where it cannot be compiled."""
    forward = run.together(run.forward, len(inputs))
    slopes = [torch.zeros_like(value) for value in forward(*inputs)]
    assert run.output is not None
    output, both = run.output, (*inputs, *slopes)
    backward = run.together(run.backward, len(both))
    try:
        return _Programs(_program(forward, inputs), _program(backward, both), output)
    except Exception as fault:  # no C++ compiler, or an operation that the compiler does not know: it only costs time
        log.warning("the local steps are not compiled, and slower for it: %s", " ".join(str(fault).split())[:200])
        return _Programs(forward, backward, output)


def _program(function: Function, inputs: Sequence[Tensor]) -> Function:
    """The function, compiled for inputs of these shapes."""
    graph = make_fx(function)(*inputs)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    program: Function = torch.compile(graph, dynamic=False, fullgraph=True)
    program(*inputs)
    return program

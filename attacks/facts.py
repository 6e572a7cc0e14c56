"""What a prior is told besides the guess: what the victims sent, their other restarts, what enters a layer.

Evaluators and the engine's step carry what was taken of each victim among the data of the problems, by these names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

Tensors = Mapping[str, Tensor]

FACT = "fact:"
"""Before the names of what a prior has taken of the observations."""


@dataclass(frozen=True)
class Restarts:
    """How N problems belong together: which are random starts of one victim, alike in all else.

    Args:
        number: (N,) int64, the place of each problem among all that there were at first.
        running: (N,) bool, whether it still moves. What a victim is told of its restarts is of those alone: when the
            others are removed depends on its neighbours.
        total: how many problems there were at first.
        each: how many of them, one after the other, are restarts of one another.
    """

    number: Tensor
    running: Tensor
    total: int
    each: int


@dataclass(frozen=True)
class Facts:
    """What is known of N problems besides their guesses.

    Args:
        taken: what the priors have taken of each problem's observation (`Prior.take`), (N, ...) by name.
        entered: what enters the layers that a prior asks for, (N, B, ...) by module path, in each local step.
        restarts: None where a prior that asks for layers is told of one problem at a time.
    """

    taken: Tensors = field(default_factory=dict)
    entered: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    restarts: Restarts | None = None


def taken_of(data: Tensors) -> dict[str, Tensor]:
    """What priors have taken, by their own names, among the data of the problems."""
    return {name.removeprefix(FACT): value for name, value in data.items() if name.startswith(FACT)}

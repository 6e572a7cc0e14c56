"""A layer that a model calls several times in one forward pass: each call gets a layer of its own, whose turn it is."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from defenses.stochastic.layer import StochasticLayer


class Repeated(nn.ModuleList):
    """Stands in a layer's place and hands the first call of a pass to its first part, the second to its second.

    The parts are sites of their own, `drop.0`, `drop.1`. A pass begins where the whole model is called.
    """

    def __init__(self, layer: StochasticLayer, calls: int) -> None:
        super().__init__(copy.deepcopy(layer) for _ in range(calls))
        self.turn = 0

    def forward(self, x: Tensor) -> Tensor:
        layer = self[self.turn % len(self)]
        self.turn += 1
        return layer(x)  # type: ignore[no-any-return]


class _Beginning:
    """A forward pre-hook of the whole model; a class, since a model is copied with its hooks."""

    def __init__(self, repeated: list[Repeated]) -> None:
        self._repeated = repeated

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        for one in self._repeated:
            one.turn = 0


def made_apart(model: nn.Module, calls: dict[str, int]) -> None:
    """Give each call of a layer that is called several times a layer of its own, in place.

    Args:
        calls: in one forward pass, by module path of the stochastic layer.
    """
    made = []
    for path, count in calls.items():
        parent, _, child = path.rpartition(".")
        if count > 1 and path:
            one = Repeated(model.get_submodule(path), count)  # type: ignore[arg-type]
            model.get_submodule(parent)._modules[child] = one
            made.append(one)
    if made:
        model.register_forward_pre_hook(_Beginning(made))

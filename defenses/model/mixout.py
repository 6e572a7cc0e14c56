"""Mixout as a defense: every client draws which of its weights are those that the server sent."""

from __future__ import annotations

from torch import nn

from defenses.base import Defense, register
from defenses.stochastic.mixout import MixoutConv2d, MixoutLinear
from defenses.stochastic.places import replace_layers


@register("mixout")
class MixoutDefense(Defense):
    """Put weights of every linear and convolutional layer back to what the server sent, anew in each step, the others
    moved further away from it (Lee, Cho, Kang, ICLR 2020; the weights sent are the paper's pretrained ones).

    Layers that are given their own forward by a subclass, and those inside `nn.MultiheadAttention`, stay as they are.

    Args:
        p: the rate at which weights are put back, in [0, 1).
    """

    def __init__(self, *, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"mixout: p = {p} is not in [0, 1)")
        self.p = p

    def on_model(self, model: nn.Module) -> nn.Module:
        replaced = replace_layers(model, self._counterpart)
        if replaced is None:
            raise ValueError(f"mixout: {type(model).__name__} has no nn.Linear or nn.Conv2d")
        return replaced

    def _counterpart(self, layer: nn.Module) -> nn.Module | None:
        if type(layer) is nn.Linear:
            return MixoutLinear(layer, self.p)
        return MixoutConv2d(layer, self.p) if type(layer) is nn.Conv2d else None

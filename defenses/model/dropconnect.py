"""DropConnect as a defense: every client draws masks on the weights that the server does not know."""

from __future__ import annotations

from torch import nn

from defenses.base import Defense, register
from defenses.stochastic.dropconnect import DropConnectConv2d, DropConnectLinear
from defenses.stochastic.places import replace_layers


@register("dropconnect")
class DropConnectDefense(Defense):
    """Drop weights of every linear and convolutional layer, anew in each step (Wan et al., ICML 2013).

    Layers that are given their own forward by a subclass, and those inside `nn.MultiheadAttention`, stay as they are.

    Args:
        p: the rate at which weights are dropped, in [0, 1); the others are divided by 1 - p.
    """

    def __init__(self, *, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"dropconnect: p = {p} is not in [0, 1)")
        self.p = p

    def on_model(self, model: nn.Module) -> nn.Module:
        replaced = replace_layers(model, self._counterpart)
        if replaced is None:
            raise ValueError(f"dropconnect: {type(model).__name__} has no nn.Linear or nn.Conv2d")
        return replaced

    def _counterpart(self, layer: nn.Module) -> nn.Module | None:
        if type(layer) is nn.Linear:
            return DropConnectLinear(layer, self.p)
        return DropConnectConv2d(layer, self.p) if type(layer) is nn.Conv2d else None

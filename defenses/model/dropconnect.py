"""DropConnect as a defense: every client draws masks on the weights that the server does not know."""

from __future__ import annotations

from torch import nn

from defenses.base import Defense, register
from defenses.stochastic.dropconnect import DropConnectConv2d, DropConnectLinear


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
        found = {path: self._counterpart(layer) for path, layer in model.named_modules()}
        replaced = {path: layer for path, layer in found.items() if layer is not None}
        if not replaced:
            raise ValueError(f"dropconnect: {type(model).__name__} has no nn.Linear or nn.Conv2d")
        for path, layer in replaced.items():
            _take_over(model.get_submodule(path), layer)
            if not path:
                return layer
            parent, _, child = path.rpartition(".")
            model.get_submodule(parent)._modules[child] = layer
        return model

    def _counterpart(self, layer: nn.Module) -> nn.Module | None:
        if type(layer) is nn.Linear:
            return DropConnectLinear(layer, self.p)
        return DropConnectConv2d(layer, self.p) if type(layer) is nn.Conv2d else None


def _take_over(before: nn.Module, after: nn.Module) -> None:
    """What another defense has hung on a layer stays there."""
    after._modules.update(before._modules)
    after._forward_pre_hooks.update(before._forward_pre_hooks)
    after._forward_hooks.update(before._forward_hooks)

"""DropBlock as a defense: every client drops squares of its feature maps."""

from __future__ import annotations

from torch import nn

from defenses.base import Defense, register
from defenses.stochastic.dropblock import DropBlock
from defenses.stochastic.places import before, inner_convolutions


@register("dropblock")
class DropBlockDefense(Defense):
    """Drop squares of what enters every two-dimensional convolution but the first (Ghiasi et al., NeurIPS 2018).

    Args:
        p: about the share of a map that is dropped, in [0, 1).
        block: the square's side in positions of the map, at least 1; 1 drops single units.
        rising: rounds over which the rate rises in equal steps from 0 to p, as in the paper; 0: it is p in all.
    """

    behind = True

    def __init__(self, *, p: float = 0.1, block: int = 7, rising: int = 0) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"dropblock: p = {p} is not in [0, 1)")
        if isinstance(block, bool) or not isinstance(block, int) or block < 1:
            raise ValueError(f"dropblock: block = {block} is not a whole number of at least 1")
        if isinstance(rising, bool) or not isinstance(rising, int) or rising < 0:
            raise ValueError(f"dropblock: rising = {rising} is not a whole number of at least 0")
        self.p, self.block, self.rising = p, block, rising

    def on_model(self, model: nn.Module) -> nn.Module:
        found = [module for module in inner_convolutions(model) if isinstance(module, nn.Conv2d)]
        if not found:
            raise ValueError(f"dropblock: {type(model).__name__} has no nn.Conv2d but one that sees the image")
        for convolution in found:
            before(convolution, "dropblock", DropBlock(self.p, self.block, self.rising))
        return model

"""Spatial dropout as a defense: every client drops whole channels of its feature maps."""

from __future__ import annotations

from torch import nn

from defenses.base import Defense, register
from defenses.stochastic.dropout import ChannelDropout
from defenses.stochastic.places import before, inner_convolutions


@register("spatial_dropout")
class SpatialDropoutDefense(Defense):
    """Drop whole channels of what enters every convolution but the first, which sees the image (Tompson et al., CVPR
    2015): `nn.Dropout2d` before it.

    Args:
        p: the rate at which channels are dropped, in [0, 1); the others are divided by 1 - p.
    """

    behind = True

    def __init__(self, *, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"spatial_dropout: p = {p} is not in [0, 1)")
        self.p = p

    def on_model(self, model: nn.Module) -> nn.Module:
        found = inner_convolutions(model)
        if not found:
            raise ValueError(f"spatial_dropout: {type(model).__name__} has no convolution but one that sees the image")
        for convolution in found:
            before(convolution, "spatial_dropout", ChannelDropout(self.p))
        return model

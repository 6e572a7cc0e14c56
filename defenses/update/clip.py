"""Clip the norm of the whole update."""

from __future__ import annotations

import math

from defenses.base import Defense, Tensors, Turn, register
from defenses.clipping import clipped


@register("clip")
class Clip(Defense):
    """Scale the update down to an L2 norm of at most `norm`, over all parameters together.

    The clipping of DP-FedAvg (McMahan et al., ICLR 2018), without its noise.

    Args:
        norm: the bound, above 0.
    """

    keeps_direction = True

    def __init__(self, *, norm: float = 1.0) -> None:
        if not 0 < norm < math.inf:
            raise ValueError(f"clip: norm = {norm} is not a positive number")
        self.norm = norm

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        return clipped(update, self.norm)

"""Add Laplace noise to the update."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.site import Site
from defenses.client.spread import Spread


@register("laplace_noise")
class LaplaceNoise(Defense):
    """Add independent noise of density `exp(-|x| / scale) / (2 scale)` to every entry of the update (the other noise
    that Zhu et al., "Deep Leakage from Gradients", NeurIPS 2019, tried against their own attack).

    Args:
        scale: mean size of the noise in units of the update, at least 0; its standard deviation is sqrt(2) times that.
    """

    keeps_direction = True

    def __init__(self, *, scale: float = 1e-3) -> None:
        if not 0 <= scale < math.inf:
            raise ValueError(f"laplace_noise: scale = {scale} is not a number of at least 0")
        self.scale = scale

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        noise = _Laplace()
        return {name: value + self.scale * turn.draw(name, noise, value) for name, value in update.items()}


    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        return Spread.alike(self.scale * math.sqrt(2), observed)


class _Laplace(Site):
    """Laplace noise of scale 1, one number for each entry of what it is added to."""

    structural = False

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        ends = torch.empty(2, *x.shape, dtype=x.dtype, device=x.device).exponential_(generator=generator)
        return ends[0] - ends[1]  # of one uniform number it would be infinite now and then

    def rest(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

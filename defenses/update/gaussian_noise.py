"""Add Gaussian noise to the update."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.site import Gaussian
from defenses.client.spread import Spread


@register("gaussian_noise")
class GaussianNoise(Defense):
    """Add independent N(0, std^2) to every entry of the update (as Zhu et al., "Deep Leakage from Gradients",
    NeurIPS 2019, tried against their own attack).

    Args:
        std: standard deviation in units of the update, at least 0.
    """

    keeps_direction = True

    def __init__(self, *, std: float = 1e-3) -> None:
        if not 0 <= std < math.inf:
            raise ValueError(f"gaussian_noise: std = {std} is not a number of at least 0")
        self.std = std

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        noise = Gaussian()
        return {name: value + self.std * turn.draw(name, noise, value) for name, value in update.items()}

    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        return Spread.alike(self.std, observed)

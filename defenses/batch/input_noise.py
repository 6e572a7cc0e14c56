"""Train on noisy images."""

from __future__ import annotations

import math

from torch import Tensor

from defenses.base import Defense, Turn, register
from defenses.client.site import EXAMPLE, Gaussian


@register("input_noise")
class InputNoise(Defense):
    """Add independent N(0, std^2) to every entry of the images, anew in each step (Bishop, *Training with Noise is
    Equivalent to Tikhonov Regularization*, Neural Computation 1995).

    An attacker rebuilds the images that were trained on, noise and all: nobody can tell the two apart by the update.

    Args:
        std: standard deviation in units of the normalised images, at least 0.
    """

    one_to_one = True

    def __init__(self, *, std: float = 0.1) -> None:
        if not 0 <= std < math.inf:
            raise ValueError(f"input_noise: std = {std} is not a number of at least 0")
        self.std = std

    def on_batch(self, images: Tensor, labels: Tensor, *, turn: Turn) -> tuple[Tensor, Tensor]:
        return images + self.std * turn.draw("noise", Gaussian(EXAMPLE), images), labels

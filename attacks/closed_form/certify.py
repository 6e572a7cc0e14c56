"""Checks that a solution passes or not, without the truth."""

from __future__ import annotations

from torch import Tensor

from attacks.observation import Observation


def outside(images: Tensor, observation: Observation) -> Tensor:
    """How far each image (B, C, H, W), in normalised units, leaves the range of pixels: (B,), in [0, 1] pixel units.

    A wrong solution is a mixture of images or noise, and leaves it; the right one stays within rounding.
    """
    mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (observation.mean, observation.std))
    pixels = images * std + mean
    return (pixels - pixels.clamp(0, 1)).abs().flatten(1).amax(1)


def in_range(images: Tensor, observation: Observation) -> Tensor:
    """Images (B, C, H, W) in normalised units, clipped to the range of pixels."""
    mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (observation.mean, observation.std))
    return images.clamp((0 - mean) / std, (1 - mean) / std)

"""Checks that a solution passes or not, without the truth."""

from __future__ import annotations

import torch
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
    low, high = (end.to(images) for end in ends(observation))
    return images.clamp(low, high)


def ends(observation: Observation) -> tuple[Tensor, Tensor]:
    """Black and white (C, H, W), float64, in normalised units."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (observation.mean, observation.std))
    low, high = ((end - mean) / std for end in (0, 1))
    return low.expand(observation.input_shape), high.expand(observation.input_shape)


def filling(images: Tensor, activity: Tensor, observation: Observation) -> Tensor:
    """Divisors (B,) that make images of unknown scale (B, C, H, W) as large as the range of pixels allows.

    The sign is the one at which the layer is active where its delta is large: `activity` (B, inputs) is
    sum_j |d_j| W_j.
    """
    sign = torch.where((images.flatten(1) * activity).sum(1) < 0, -1.0, 1.0).to(images)
    mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (observation.mean, observation.std))
    steps = images * std * sign.view(-1, 1, 1, 1)
    black, white = mean.clamp_min(1e-3), (1 - mean).clamp_min(1e-3)  # a mean at the end of the range leaves no room
    return sign * torch.maximum(steps / white, -steps / black).flatten(1).amax(1)

"""Images as a sum of pictures of several resolutions, and the models for which that, and smoothness, pays.

A search that moves pixel by pixel through a deep network finds textures that fit the update and no image. One that
moves whole regions first finds the image: what is optimised is a pyramid of pictures (after the Laplacian pyramid, Burt
and Adelson, IEEE Transactions on Communications 1983; the same idea as the Fourier bases of Olah, Mordvintsev and
Schubert, *Feature Visualization*, Distill 2017).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.unknowns import Draw, Images, Setting

DEEP = 8
"""Convolutions from which a network counts as deep."""

ROUGH, SMOOTH = 1e-5, 0.2
"""Weights of total variation: of others, as the papers have it, and of deep networks."""

COARSEST = 8
"""The shorter side is halved so often that at least half of so many pixels are left."""

NEAR = 0.1
"""How far from the mean images start."""


def deep(model: nn.Module) -> bool:
    """The rule by which a model is attacked as a deep one: it has many convolutions, one behind the other.

    Chosen on the images to tune by (CONTRIBUTING.md): on a ResNet18 with batch norm, photographs, a weight of 0.2 and a
    pyramid gain what they cost many times over on three convolutions.
    """
    return sum(isinstance(layer, nn.Conv2d) for layer in model.modules()) >= DEEP


def total_variation_of(model: nn.Module) -> float:
    """The weight of total variation for a model, where nobody gives one."""
    return SMOOTH if deep(model) else ROUGH


class Pyramid(Images):
    """The batch, as the sum of pictures whose sides are halved again and again, enlarged bilinearly.

    All but the finest begin at the mean. Each moves by the gradient's sign, so that a region moves by as much as a
    pixel; pixels may take any value.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, spread=NEAR, bounded=False)
        self.count, self.channels, *full = self.shape
        self.sides = [tuple(full)]
        while min(self.sides[-1]) >= COARSEST:
            self.sides.append(tuple(-(-side // 2) for side in self.sides[-1]))

    def start(self, draw: Draw) -> dict[str, Tensor]:
        whole = super().start(draw)["images"]
        return {"images": self.free("images", whole)}

    def free(self, name: str, value: Tensor) -> Tensor:
        coarser = [value.new_zeros(self.count, self.channels, *sides).flatten(1) for sides in self.sides[1:]]
        return torch.cat([value.flatten(1), *coarser], dim=1)

    def value(self, name: str, free: Tensor) -> Tensor:
        sizes = [self.channels * height * width for height, width in self.sides]
        pictures = []
        for sides, part in zip(self.sides, free.split(sizes, dim=2)):
            picture = part.flatten(0, 1).unflatten(1, (self.channels, *sides))
            if sides != self.sides[0]:
                picture = F.interpolate(picture, size=self.sides[0], mode="bilinear", align_corners=False)
            pictures.append(picture)
        return super().value(name, torch.stack(pictures).sum(0).unflatten(0, free.shape[:2]))

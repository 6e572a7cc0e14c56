"""Train on images that were shifted and flipped at random."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.base import Defense, Deployment, Turn, register
from defenses.client.site import EXAMPLE, Site


@register("augmentation")
class Augmentation(Defense):
    """Shift each image by up to `shift` pixels in both directions, its border repeated, and mirror half of them: the
    crops and flips with which networks are trained on CIFAR (He et al., CVPR 2016), anew in each step.

    That a transformation of the images protects them, if it is well chosen, is the claim of Gao et al.,
    *Privacy-Preserving Collaborative Learning with Automatic Transformation Search*, CVPR 2021.

    An attacker rebuilds the images that were trained on. Where they were shifted to, and whether they were mirrored,
    nobody can tell by the update, nor has to: such a reconstruction is one of the image, and is scored so (`shows`).

    Args:
        shift: pixels, at least 0.
        flip: whether images are mirrored.
    """

    shows = True
    one_to_one = True

    def __init__(self, *, shift: int = 4, flip: bool = True) -> None:
        if isinstance(shift, bool) or not isinstance(shift, int) or shift < 0:
            raise ValueError(f"augmentation: shift = {shift} is not a whole number of at least 0")
        self.shift, self.flip = shift, flip

    def on_batch(self, images: Tensor, labels: Tensor, *, turn: Turn) -> tuple[Tensor, Tensor]:
        up, left, mirrored = turn.draw("move", Move(self.shift, self.flip), images).unbind(1)
        height, width = images.shape[-2:]
        rows = (torch.arange(height, device=images.device) + up[:, None]).clamp(0, height - 1)
        columns = (torch.arange(width, device=images.device) + left[:, None]).clamp(0, width - 1)
        columns = torch.where(mirrored[:, None] == 1, width - 1 - columns, columns)
        each = torch.arange(len(images), device=images.device)[:, None, None]
        return images.movedim(1, -1)[each, rows[:, :, None], columns[:, None, :]].movedim(-1, 1), labels

    def refuses(self, deployment: Deployment) -> str | None:
        return None if self.shift or self.flip else "augmentation: it neither shifts nor flips"


class Move(Site):
    """How an image is moved: rows up, columns to the left, and 1 if it is mirrored then, int64 (B, 3)."""

    axes = EXAMPLE
    structural = False  # a moved image fits the update as well as the image that was moved

    def __init__(self, shift: int, flip: bool) -> None:
        self.shift, self.flip = shift, flip

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        device = x.device if generator is None else generator.device

        def drawn(low: int, high: int) -> Tensor:
            return torch.randint(low, high + 1, (len(x),), generator=generator, device=device)

        moved = [drawn(-self.shift, self.shift), drawn(-self.shift, self.shift), drawn(0, int(self.flip))]
        return torch.stack(moved, dim=1).to(x.device)

    def rest(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 3, dtype=torch.int64, device=x.device)

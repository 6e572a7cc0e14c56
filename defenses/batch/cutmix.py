"""Train on images that have a rectangle of another one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from defenses.base import Defense, Deployment, Turn, register
from defenses.batch.mixup import Permutation, numpys
from defenses.client.site import STEP, Site


@register("cutmix")
class CutMix(Defense):
    """Put a rectangle of another image of the mini-batch into every image, and mix their labels by its area:

        x = m x_i + (1 - m) x_j,  y = lambda y_i + (1 - lambda) y_j,  lambda = mean(m)

    Yun et al., *CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features*, ICCV 2019
    (arXiv 1905.04899): one mask m of zeros and ones a mini-batch, a rectangle of the share 1 - lambda of the area for
    lambda ~ Beta(alpha, alpha), its centre anywhere, cut at the border; the j of all i are a permutation of the batch.

    An attacker who knows the defense still does not know m nor the permutation. It may optimise the one; the other it
    can only try, in small batches.

    Args:
        alpha: both parameters of the Beta distribution; 1 is the paper's.
    """

    draws = True

    def __init__(self, *, alpha: float = 1.0) -> None:
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"cutmix: alpha = {alpha} is not a positive number")
        self.alpha = alpha

    def on_batch(self, images: Tensor, labels: Tensor, *, turn: Turn) -> tuple[Tensor, Tensor]:
        own = turn.draw("rectangle", Rectangle(self.alpha), images)
        order = turn.draw("permutation", Permutation(len(images)), images)
        targets, share = turn.one_hot(labels, images.dtype), own.mean()
        return own * images + (1 - own) * images[order], share * targets + (1 - share) * targets[order]

    def refuses(self, deployment: Deployment) -> str | None:
        if deployment.batch_size < 2:
            return "cutmix: an image has nothing to be mixed with in a batch of 1; it needs batches of 2 or more"
        return None


class Rectangle(Site):
    """Which pixels (H, W) of an image are its own, 1, and which another's, 0: one rectangle a mini-batch."""

    axes = STEP

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        height, width = x.shape[-2:]
        random = numpys(generator)
        side = math.sqrt(1 - random.beta(self.alpha, self.alpha))
        rows, columns = (_span(int(random.integers(size)), int(size * side), size) for size in (height, width))
        own = torch.ones(height, width, dtype=x.dtype, device=x.device)
        own[rows, columns] = 0
        return own

    def rest(self, x: Tensor) -> Tensor:
        return x.new_ones(x.shape[-2:])

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)


def _span(centre: int, length: int, size: int) -> slice:
    start = centre - length // 2
    return slice(max(0, start), min(size, start + length))

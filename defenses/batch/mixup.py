"""Train on mixtures of two images each."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from defenses.base import Defense, Deployment, Turn, register
from defenses.client.site import EXAMPLE, STEP, Site


@register("mixup")
class Mixup(Defense):
    """Mix every image of a mini-batch with another one of it, and their labels alike:

        x = lambda x_i + (1 - lambda) x_j,  y = lambda y_i + (1 - lambda) y_j,  lambda ~ Beta(alpha, alpha)

    Zhang, Cisse, Dauphin, Lopez-Paz, *mixup: Beyond Empirical Risk Minimization*, ICLR 2018 (arXiv 1710.09412): one
    lambda a mini-batch, and the j of all i are a permutation of it.

    An attacker who knows the defense still does not know lambda nor the permutation. It may optimise the one; the other
    it can only try, in small batches.

    Args:
        alpha: both parameters of the Beta distribution; near 0 hardly anything is mixed.
    """

    draws = True

    def __init__(self, *, alpha: float = 1.0) -> None:
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"mixup: alpha = {alpha} is not a positive number")
        self.alpha = alpha

    def on_batch(self, images: Tensor, labels: Tensor, *, turn: Turn) -> tuple[Tensor, Tensor]:
        weight = turn.draw("weight", Weight(self.alpha), images)
        order = turn.draw("permutation", Permutation(len(images)), images)
        targets = turn.one_hot(labels, images.dtype)
        return weight * images + (1 - weight) * images[order], weight * targets + (1 - weight) * targets[order]

    def refuses(self, deployment: Deployment) -> str | None:
        if deployment.batch_size < 2:
            return "mixup: an image has nothing to be mixed with in a batch of 1; it needs batches of 2 or more"
        return None


class Weight(Site):
    """How much of an image is its own: one number in [0, 1] a mini-batch."""

    axes = STEP

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        drawn = numpys(generator).beta(self.alpha, self.alpha)
        return torch.tensor(drawn, dtype=x.dtype, device=x.device)

    def rest(self, x: Tensor) -> Tensor:
        return x.new_ones(())

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)


class Permutation(Site):
    """With which image of the mini-batch each is mixed: their places in it, int64 (B,)."""

    axes = EXAMPLE  # a partner each: the batches of an epoch differ in size
    relaxable = False

    def __init__(self, size: int) -> None:
        self.size = size

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        device = x.device if generator is None else generator.device
        return torch.randperm(self.size, generator=generator, device=device).to(x.device)

    def rest(self, x: Tensor) -> Tensor:
        return torch.arange(self.size, device=x.device)

    def support(self, limit: int, acts_on: torch.Size) -> Tensor | None:
        if math.factorial(self.size) > limit:
            return None
        return torch.tensor(list(itertools.permutations(range(self.size))))


def numpys(generator: torch.Generator | None) -> np.random.Generator:
    """numpy's generator seeded by torch's: torch draws from a Beta distribution without one of ours."""
    device = None if generator is None else generator.device
    return np.random.default_rng(torch.randint(2**62, (2,), generator=generator, device=device).tolist())

"""DropBlock (Ghiasi et al., NeurIPS 2018): squares of a feature map are dropped."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.stochastic.layer import StochasticLayer


class DropBlock(StochasticLayer):
    """Squares of `block` positions, anew in each channel, set to zero; what is left is scaled to the same mean.

    The paper scales by the count of all entries over the count of those kept; here of each example, so that examples do
    not meet. A map smaller than the square is dropped as a whole.

    Args:
        p: about the share of entries that is dropped, in [0, 1); squares may overlap, so that it is somewhat less.
        block: the square's side, at least 1.
        rising: rounds over which the rate rises in equal steps from 0 to p, as in the paper; 0: it is p in all.

    Shape:
        x: (B, C, H, W); noise: like x, entries 0 or 1 when drawn, in [0, 1] when relaxed.
    """

    def __init__(self, p: float, block: int, rising: int = 0) -> None:
        super().__init__()
        self.highest, self.block, self.rising = p, block, rising
        self.begin(1)

    def begin(self, round: int) -> None:
        self.p = self.highest * (min(1.0, round / self.rising) if self.rising else 1.0)

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        height, width = x.shape[2:]
        high, wide = min(self.block, height), min(self.block, width)
        corners = x.new_empty(*x.shape[:2], height - high + 1, width - wide + 1)
        rate = self.p * height * width / (high * wide * corners.shape[2] * corners.shape[3])
        corners.bernoulli_(rate, generator=generator)
        spread = F.pad(corners, (wide - 1, wide - 1, high - 1, high - 1))
        return 1 - F.max_pool2d(spread, (high, wide), stride=1)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        kept = noise.flatten(1).mean(1).clamp(min=1 / noise[0].numel())
        return x * noise / kept.view(-1, 1, 1, 1)

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)

    def penalty(self, noise: Tensor) -> Tensor:
        """`|(1 - mean(m)) - p|`, as of dropout."""
        return ((1 - noise.mean()) - self.p).abs()

    def extra_repr(self) -> str:
        return f"p={self.p}, block={self.block}"

"""Multi-sample dropout (Inoue, arXiv 1905.09788): several masks before the head at once."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.stochastic.layer import StochasticLayer


class MultiSampleDropout(StochasticLayer):
    """Several dropped copies of one vector.

    Args:
        p: the rate, in [0, 1).
        samples: how many copies.

    Shape:
        x: (B, width); noise and what is returned: (B, samples, width); without noise x itself.
    """

    def __init__(self, p: float, samples: int) -> None:
        super().__init__()
        self.p, self.samples = p, samples

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if x.dim() != 2:
            raise ValueError(f"multi_sample_dropout takes one vector (B, width) an example, not {tuple(x.shape)}")
        return x.new_empty(len(x), self.samples, x.shape[1]).bernoulli_(1 - self.p, generator=generator)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        return x[:, None] * noise / (1 - self.p)

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)

    def penalty(self, noise: Tensor) -> Tensor:
        """`|(1 - mean(m)) - p|`, as of dropout."""
        return ((1 - noise.mean()) - self.p).abs()

    def extra_repr(self) -> str:
        return f"p={self.p}, samples={self.samples}"

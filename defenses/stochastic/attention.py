"""Dropping attention: single weights, the keys that they point at, or whole heads."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from defenses.stochastic.layer import StochasticLayer


class AttentionDropout(StochasticLayer):
    """`a * m` with m from Bernoulli(1 - p), scaled by `1 / (1 - p)` or so that each query's weights add up to 1 again.

    The latter is what a softmax gives of scores of which some are set to minus infinity. A query all of whose keys were
    dropped attends to nothing.

    Args:
        p: the rate, in [0, 1).
        drop: what is dropped at once.
        scale: by the rate, or of each row of weights.

    Shape:
        x: (B, heads, queries, keys), attention weights; noise: like x, (B, heads, 1, keys) or (B, heads, 1, 1), entries
        0 or 1 when drawn, in [0, 1] when relaxed.
    """

    def __init__(
        self, p: float, drop: Literal["weights", "keys", "heads"] = "weights", scale: Literal["rate", "rows"] = "rate"
    ) -> None:
        super().__init__()
        self.p, self.drop, self.scale = p, drop, scale

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"attention weights are (B, heads, queries, keys), not {tuple(x.shape)}")
        batch, heads, queries, keys = x.shape
        shape = {"weights": (queries, keys), "keys": (1, keys), "heads": (1, 1)}[self.drop]
        return x.new_empty(batch, heads, *shape).bernoulli_(1 - self.p, generator=generator)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        if self.scale == "rate":
            return x * noise / (1 - self.p)
        left = x * noise
        return left / left.sum(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)

    def penalty(self, noise: Tensor) -> Tensor:
        """`|(1 - mean(m)) - p|`, as of dropout."""
        return ((1 - noise.mean()) - self.p).abs()

    def extra_repr(self) -> str:
        return f"p={self.p}, drop={self.drop}, scale={self.scale}"

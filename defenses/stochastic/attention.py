"""Dropping attention: single weights, the keys that they point at, or whole heads."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from defenses.stochastic.layer import StochasticLayer


class AttentionDropout(StochasticLayer):
    """`a * m` with m from Bernoulli(1 - p), scaled by `1 / (1 - p)` or so that as much is left as there was.

    The latter is what a softmax gives of scores of which some are set to minus infinity: each query's weights add up to
    1 again. Of heads it is those that stay that are scaled, by how many there are for each of them. A query all of
    whose keys were dropped, or an example all of whose heads were, attends to nothing.

    Args:
        p: the rate, in [0, 1).
        drop: what is dropped at once.
        scale: by the rate, or to what there was in each row of weights; in all heads, where heads are dropped.

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
        left, least = x * noise, torch.finfo(x.dtype).tiny
        if self.drop == "heads":
            return left / noise.mean(1, keepdim=True).clamp(min=least)
        return left / left.sum(-1, keepdim=True).clamp(min=least)

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)

    def penalty(self, noise: Tensor) -> Tensor:
        """`|(1 - mean(m)) - p|`, as of dropout."""
        return ((1 - noise.mean()) - self.p).abs()

    def extra_repr(self) -> str:
        return f"p={self.p}, drop={self.drop}, scale={self.scale}"

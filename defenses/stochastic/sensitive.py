"""Dropping the units that varied most (SenD: Mohammadzadeh et al., ACL 2025), the same ones for all examples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.client.site import ROUND
from defenses.stochastic.layer import StochasticLayer


class SensitiveDropout(StochasticLayer):
    """`x * m` with a mask m of the round that a client takes from what it remembers; nothing is scaled.

    A child of the linear layer that is given x.

    Args:
        share: of the units that m drops once the client remembers enough, in [0, 1).
        window: rounds that it has to have seen before.
        remembered: the name of m in its memory.

    Shape:
        x: (B, ..., width); noise: (width,), 0 or 1 when drawn, in [0, 1] when relaxed.
    """

    axes = ROUND

    def __init__(self, share: float, window: int, remembered: str) -> None:
        super().__init__()
        self.share, self.window, self.remembered = share, window, remembered
        self._mask: Tensor | None = None
        self._asked = False
        self.begin(1)

    def begin(self, round: int) -> None:
        self._early = round <= self.window

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        self._mask, self._asked = memory.get(self.remembered), True

    @property
    def idle(self) -> bool:
        return self._early or self.share == 0

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A client's mask; of whoever was not told what a client remembers, one of as many units as it drops."""
        if self._mask is not None:
            return self._mask.to(x)
        ones = x.new_ones(x.shape[-1])
        if self._asked:
            return ones
        order = torch.rand(len(ones), generator=generator, dtype=x.dtype, device=x.device).argsort()
        return ones.scatter(0, order[: int(self.share * len(ones))], 0.0)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        return x * noise

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)

    def penalty(self, noise: Tensor) -> Tensor:
        """How far the share of dropped units is from what it is to be."""
        return (1 - noise.mean() - int(self.share * len(noise)) / len(noise)).abs()

    def read(self, gradient: Mapping[str, Tensor], name: str, acts_on: torch.Size) -> Tensor | None:
        """Units that were dropped leave columns of zeros in the gradient of the layer behind, of any batch."""
        found = gradient.get(f"{name.rpartition('.')[0]}.weight".lstrip("."))
        if found is None or acts_on[-1] != found.shape[1] or not found.any():
            return None
        return found.any(dim=0).to(found)

    def extra_repr(self) -> str:
        return f"share={self.share}, window={self.window}"

"""Gaussian dropout (Srivastava et al., JMLR 2014, section 10): units are multiplied by normal noise of mean 1."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from defenses.stochastic.layer import StochasticLayer


class GaussianDropout(StochasticLayer):
    """`h * n` with n from N(1, p / (1 - p)): the mean and variance of inverted dropout at rate p.

    Nothing of it is zero, so that no update gives it away; an attacker looks for it together with the images.

    Args:
        p: the rate of the dropout that it stands for, in [0, 1).
        per: what has a factor of its own, each unit or each channel.

    Shape:
        x: (B, C, ...); noise: like x, or (B, C, 1, ...), any real numbers.
    """

    def __init__(self, p: float, per: Literal["unit", "channel"] = "unit") -> None:
        super().__init__()
        self.p, self.per = p, per

    @property
    def variance(self) -> float:
        return self.p / (1 - self.p)

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        shape = x.shape if self.per == "unit" else x.shape[:2] + (1,) * (x.dim() - 2)
        normal = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
        return 1 + self.variance**0.5 * normal

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        return x * noise

    def penalty(self, noise: Tensor) -> Tensor:
        """The negative log-likelihood of an entry under its own law, without its constant; the mean of all."""
        return (noise - 1).square().mean() / (2 * self.variance)

    def extra_repr(self) -> str:
        return f"p={self.p}, per={self.per}"

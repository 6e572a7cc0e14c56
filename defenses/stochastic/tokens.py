"""Dropping tokens from a sequence (PatchDropout: Liu et al., WACV 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.stochastic.layer import StochasticLayer


class TokenDropout(StochasticLayer):
    """A random part of the tokens, in their order, of always the same size; the first ones stay.

    Nothing is scaled, and in evaluation mode all tokens are there, as in the paper. An attacker may weigh tokens: those
    of the largest weights are kept, each times its weight.

    Args:
        p: the share of tokens that is dropped, in [0, 1); at least one token is kept.
        first: how many tokens at the front stay, such as a class token.

    Shape:
        x: (B, first + N, D); noise: (B, N), 1 of tokens that stay and 0 of others when drawn, in [0, 1] when relaxed;
        returns (B, first + kept, D).
    """

    def __init__(self, p: float, first: int = 1) -> None:
        super().__init__()
        self.p, self.first = p, first

    def kept(self, tokens: int) -> int:
        """How many of so many tokens stay, besides the first."""
        return max(1, int((tokens - self.first) * (1 - self.p) + 1e-9))

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if x.dim() != 3 or x.shape[1] <= self.first:
            raise ValueError(f"tokens are (B, more than {self.first}, D), not {tuple(x.shape)}")
        order = torch.rand(len(x), x.shape[1] - self.first, generator=generator, dtype=x.dtype, device=x.device)
        chosen = order.argsort(dim=1)[:, : self.kept(x.shape[1])]
        return torch.zeros_like(order).scatter(1, chosen, 1.0)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        order = noise.argsort(dim=1, descending=True, stable=True)[:, : self.kept(x.shape[1])]
        places = order.sort(dim=1).values
        weights = noise.gather(1, places)[..., None]
        rest = x[:, self.first :].gather(1, places[..., None].expand(-1, -1, x.shape[2]))
        return torch.cat([x[:, : self.first], rest * weights], dim=1)

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)

    def penalty(self, noise: Tensor) -> Tensor:
        """How far the weights are from adding up to the number of tokens that stay, in tokens of all."""
        tokens = noise.shape[-1]
        return (noise.mean() - self.kept(tokens + self.first) / tokens).abs()

    def read(self, gradient: Mapping[str, Tensor], name: str, acts_on: torch.Size) -> Tensor | None:
        """A dropped token's learned position has a gradient of exactly zero, of one example."""
        if acts_on[0] != 1:
            return None
        parent = name.rpartition(".")[0] + "."
        own = [each for key, each in gradient.items() if key.startswith(parent)] if parent != "." else []
        whole = [each for each in gradient.values() if each.dim() == 3]
        for value in [*own, *whole]:
            rows = value[0] if value.dim() == 3 and len(value) == 1 else value
            if rows.shape == acts_on[1:] and rows.any():
                return rows[self.first :].any(dim=1).to(rows)[None]
        return None

    def extra_repr(self) -> str:
        return f"p={self.p}, first={self.first}"

"""A variational bottleneck (Kingma and Welling, ICLR 2014) in front of a layer, as PRECODE puts one into a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from defenses.stochastic.layer import StochasticLayer


class Reparameterised(StochasticLayer):
    """`z = mu + eps * sigma` with eps from N(0, 1); at rest z = mu.

    Shape:
        x: (B, 2 K), mu beside log sigma^2; noise, z: (B, K).
    """

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(len(x), x.shape[1] // 2, generator=generator, dtype=x.dtype, device=x.device)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        mu, log_variance = x.chunk(2, dim=1)
        return mu + noise * (log_variance / 2).exp()

    def unperturbed(self, x: Tensor) -> Tensor:
        return x.chunk(2, dim=1)[0]

    def penalty(self, noise: Tensor) -> Tensor:
        """How far its mean square is from 1."""
        return (noise.square().mean() - 1).abs()


class Last:
    """What a module computed last, which is no part of a copy of it."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def __deepcopy__(self, memory: dict[int, Any]) -> Last:
        return Last()

    def __getstate__(self) -> dict[str, None]:
        return {"value": None}


class Bottleneck(nn.Module):
    """Encoder (mu, log sigma^2), a draw, decoder: (B, width) -> (B, width).

    Args:
        size: K, entries of what is drawn.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, 2 * size)
        self.code = Reparameterised()
        self.decoder = nn.Linear(size, width)
        self._divergence = Last()

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            raise ValueError(f"the bottleneck takes one vector (B, width) an example, not {tuple(x.shape)}")
        encoded = self.encoder(x)
        mu, log_variance = encoded.chunk(2, dim=1)
        divergence = (mu.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
        self._divergence.value = divergence.mean()
        decoded: Tensor = self.decoder(self.code(encoded))
        return decoded

    @property
    def divergence(self) -> Tensor:
        """KL(N(mu, sigma) | N(0, 1)) of the last forward pass, the mean of its examples."""
        assert self._divergence.value is not None, "a model is asked for its term after a forward pass"
        return self._divergence.value

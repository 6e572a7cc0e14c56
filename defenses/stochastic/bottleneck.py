"""Variational bottlenecks (Kingma and Welling, ICLR 2014), as PRECODE and CVB put them into a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.stochastic.layer import StochasticLayer


class Reparameterised(StochasticLayer):
    """`z = mu + eps * sigma` with eps from N(0, 1); at rest z = mu.

    Args:
        deviation: from what the encoder says of it to sigma.

    Shape:
        x: (B, 2 K, ...), mu beside what is said of sigma; noise, z: (B, K, ...).
    """

    def __init__(self, deviation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._deviation = deviation

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        shape = (len(x), x.shape[1] // 2, *x.shape[2:])
        return torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        mu, said = x.chunk(2, dim=1)
        return mu + noise * self._deviation(said)

    def divergence(self, x: Tensor) -> Tensor:
        """KL(N(mu, sigma) | N(0, 1)), the sum over K, the mean of all else."""
        mu, said = x.chunk(2, dim=1)
        sigma = self._deviation(said)
        return ((mu.square() + sigma.square() - 1) / 2 - sigma.log()).sum(1).mean()

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


def _of_log_variance(said: Tensor) -> Tensor:
    return (said / 2).exp()


def _softplus(said: Tensor) -> Tensor:
    return F.softplus(said.clamp(-5, 5))


class Variational(nn.Module):
    """Encoder, a draw, decoder, of one shape."""

    def __init__(self, encoder: nn.Module, deviation: Callable[[Tensor], Tensor], decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.code = Reparameterised(deviation)
        self.decoder = decoder
        self._divergence = Last()

    def forward(self, x: Tensor) -> Tensor:
        encoded = self.encoder(x)
        self._divergence.value = self.code.divergence(encoded)
        decoded: Tensor = self.decoder(self.code(encoded))
        return decoded

    @property
    def divergence(self) -> Tensor:
        """That of the draws of the last forward pass from N(0, 1)."""
        assert self._divergence.value is not None, "a model is asked for its term after a forward pass"
        return self._divergence.value


class Bottleneck(Variational):
    """Linear layers around a draw: (B, width) -> (B, width).

    Args:
        size: K, entries of what is drawn.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__(nn.Linear(width, 2 * size), _of_log_variance, nn.Linear(size, width))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2:
            raise ValueError(f"the bottleneck takes one vector (B, width) an example, not {tuple(x.shape)}")
        return super().forward(x)


class ConvolutionalBottleneck(Variational):
    """Convolutions around a draw: (B, C, H, W) -> (B, C, H, W); sigma is the softplus of what is within [-5, 5].

    Args:
        size: K, channels of what is drawn.
        kernel: of the encoder, which keeps the resolution; the decoder's is 1. None of them has a bias.
    """

    def __init__(self, channels: int, size: int, kernel: int) -> None:
        encoder = nn.Conv2d(channels, 2 * size, kernel, padding="same", bias=False)
        super().__init__(encoder, _softplus, nn.Conv2d(size, channels, 1, bias=False))

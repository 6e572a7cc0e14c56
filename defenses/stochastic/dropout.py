"""Dropout (Srivastava et al., JMLR 2014) with its Bernoulli mask made explicit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from defenses.client.site import STEP
from defenses.stochastic.layer import StochasticLayer

SATURATION = -1.7580993408473766
"""What the SELU tends to at minus infinity."""

LEAST = 1e-2
"""No rate is estimated to be nearer to 1 than this."""


class Dropout(StochasticLayer):
    """Inverted dropout: `h * m / (1 - p)` with m drawn from Bernoulli(1 - p), elementwise.

    Args:
        p: the rate at which units are dropped, in [0, 1).

    Attributes:
        told: whether the rate is known. Where it is not, an attacker takes for the rate of an example what its mask
            drops, `1 - mean(m)`, looks for masks from a rate of 1/2 on, and believes nothing of their mean.

    Shape:
        x: (B, ...); noise: like x, entries 0 or 1 when drawn, in [0, 1] when relaxed.
    """

    told: bool = True

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout rate p = {p} is not in [0, 1)")
        self.p = p

    @property
    def idle(self) -> bool:
        return self.told and self.p == 0

    @property
    def keeps(self) -> float:
        """The chance that a unit is kept, or where a search for it starts."""
        return 1 - self.p if self.told else 0.5

    def rate(self, noise: Tensor) -> Tensor | float:
        """The rate, or the estimate of it from each example's noise (B, ...), as (B, 1, ...)."""
        if self.told:
            return self.p
        kept = noise.flatten(1).mean(1).clamp(min=LEAST)
        return 1 - kept.view(-1, *[1] * (noise.dim() - 1))

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.empty_like(x).bernoulli_(self.keeps, generator=generator)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        return x * noise / (1 - self.rate(noise))

    def relax(self, noise: Tensor) -> Tensor:
        return noise

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)

    def penalty(self, noise: Tensor) -> Tensor:
        """`|(1 - mean(m)) - p|`, the drop-rate prior of the Dropout Inversion Attack (Scheliga et al., AAAI 2023)."""
        return ((1 - noise.mean()) - self.p).abs() if self.told else noise.new_zeros(())

    def extra_repr(self) -> str:
        return f"p={self.p}"


class FeatureDropout(Dropout):
    """Dropout of whole channels (Tompson et al., CVPR 2015), as `nn.Dropout1d`, `2d` and `3d` do.

    Args:
        batched: dimensions of a batch, 3 of `nn.Dropout1d` and 5 of `nn.Dropout3d`: an input of fewer is to them one
            example, whose channels are its first dimension, so that whole examples of a batch are dropped.

    Shape:
        x: (B, C, ...); noise: (B, C, 1, ...), one entry a channel; of fewer dimensions (B, 1, ...).
    """

    def __init__(self, p: float = 0.5, batched: int = 0) -> None:
        super().__init__(p)
        self.batched = batched

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        own = 1 if x.dim() < self.batched else 2
        return x.new_empty(x.shape[:own] + (1,) * (x.dim() - own)).bernoulli_(self.keeps, generator=generator)


class ChannelDropout(FeatureDropout):
    """Dropout of the channels that enter a convolution, whose child it is."""

    def read(self, gradient: Mapping[str, Tensor], name: str, acts_on: torch.Size) -> Tensor | None:
        """The weights that see a dropped channel have a gradient of exactly zero, of one example and without groups."""
        found = gradient.get(f"{name.rpartition('.')[0]}.weight".lstrip("."))
        if found is None or acts_on[0] != 1 or found.shape[1] != acts_on[1] or not found.any():
            return None
        passed = found.transpose(0, 1).flatten(1).any(dim=1)
        return passed.to(found).view(1, -1, *[1] * (len(acts_on) - 2))


class AlphaDropout(Dropout):
    """Dropout for self-normalising networks (Klambauer et al., NeurIPS 2017), as `nn.AlphaDropout`: dropped units are
    set to what the SELU tends to, and all are moved so that mean 0 and variance 1 stay as they are."""

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        rate = self.rate(noise)
        scale = ((1 - rate) * (1 + rate * SATURATION**2)) ** -0.5
        return scale * (x * noise + SATURATION * (1 - noise)) - scale * SATURATION * rate


class FeatureAlphaDropout(AlphaDropout, FeatureDropout):
    """The same of whole channels, as `nn.FeatureAlphaDropout`."""


def untold(model: nn.Module) -> nn.Module:
    """Let the rates of the model's own dropout layers be unknown, in place."""
    for layer in model.modules():
        if isinstance(layer, Dropout) and not layer.added:
            layer.told = False
    return model


class BatchDropout(StochasticLayer):
    """Inverted dropout with one mask for all examples of a mini-batch.

    Args:
        p: the rate at which units are dropped, in [0, 1).
        channels: whether whole channels are dropped.

    Shape:
        x: (B, C, ...); noise: (C, ...), or (C, 1, ...) of channels.
    """

    axes = STEP

    def __init__(self, p: float, *, channels: bool = False) -> None:
        super().__init__()
        self.p, self.channels = p, channels

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        shape = x.shape[1:2] + (1,) * (x.dim() - 2) if self.channels else x.shape[1:]
        return x.new_empty(shape).bernoulli_(1 - self.p, generator=generator)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        return x * noise / (1 - self.p)

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)

    def penalty(self, noise: Tensor) -> Tensor:
        """`|(1 - mean(m)) - p|`, as of dropout."""
        return ((1 - noise.mean()) - self.p).abs()

    def extra_repr(self) -> str:
        return f"p={self.p}, channels={self.channels}"

"""Concrete dropout (Gal, Hron, Kendall, NeurIPS 2017): a relaxed Bernoulli mask whose rate is learnt."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from defenses.stochastic.bottleneck import Last
from defenses.stochastic.layer import StochasticLayer

_EDGE = 1e-7
"""How near to 0 and 1 a uniform draw may be, as in the authors' code."""


class ConcreteDropout(StochasticLayer):
    """`x * (1 - z) / (1 - p)` with `z = sigmoid((logit p + logit u) / temperature)`, u uniform in (0, 1), elementwise.

    Its only parameter, `logit`, gives the rate `p = sigmoid(logit)`.

    Args:
        start: the rate before it has learnt anything, in (0, 1).
        temperature: positive; towards 0 the mask becomes one of zeros and ones.
        decay, entropy: weights of the two parts of `term`.

    Shape:
        x: (B, ...); noise: u, like x.
    """

    def __init__(self, start: float, temperature: float, *, decay: float, entropy: float) -> None:
        super().__init__()
        self.temperature, self.decay, self.entropy = temperature, decay, entropy
        self._term = Last()
        self.logit = nn.Parameter(torch.tensor(math.log(start) - math.log1p(-start)))

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return uniform.clamp(_EDGE, 1 - _EDGE)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        dropped = ((self.logit + noise.logit()) / self.temperature).sigmoid()
        return x * (1 - dropped) / (1 - self.logit.sigmoid())

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(_EDGE, 1 - _EDGE)

    def penalty(self, noise: Tensor) -> Tensor:
        """How far the mean of the uniform draws is from 1/2."""
        return (noise.mean() - 0.5).abs()

    def note(self, weight: Tensor) -> None:
        """Whose input it drops, before each forward pass: a weight (outputs, inputs)."""
        rate = self.logit.sigmoid()
        negative = rate * rate.log() + (1 - rate) * (1 - rate).log()
        squares = weight.square().sum() / (1 - rate)
        self._term.value = self.decay * squares + self.entropy * weight.shape[1] * negative

    @property
    def term(self) -> Tensor:
        """What the paper adds to the loss, of the last forward pass: `decay |W|^2 / (1 - p) - entropy K H(p)`, with the
        entropy H of a mask's entry in nats and the K inputs of the layer W."""
        assert self._term.value is not None, "a model is asked for its term after a forward pass"
        return self._term.value

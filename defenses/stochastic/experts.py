"""A random choice of experts (SMoE-Dropout: Chen et al., ICLR 2023): groups of units, of which a token passes a few."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from defenses.stochastic.layer import StochasticLayer


class Experts(StochasticLayer):
    """Units in equal groups, the experts: each token passes the k whose logits are the largest, weighted by the softmax
    of these k logits, and the others not at all.

    The logits are those of the layer's router, a linear layer that is initialised at random, like any of torch, and
    never trained. So the choice follows from the token and from the router. In evaluation mode a token passes all.

    Args:
        inputs: entries of the token that the router sees.
        experts: how many groups there are.
        least: k in the first round, at least 1.
        rising: rounds over which k rises in equal steps to `experts`; 0: it does not.
        weight: the name of the weight whose rows are the units.

    Shape:
        x: (B, ..., experts + units), the logits before the units; noise: (B, ..., experts), 1 for the experts that were
        chosen and 0 for others when drawn, in [0, 1] when relaxed; returns (B, ..., units).
    """

    def __init__(self, inputs: int, *, experts: int, least: int, rising: int, weight: str) -> None:
        super().__init__()
        self.experts, self.least, self.rising, self.weight = experts, least, rising, weight
        router = nn.Linear(inputs, experts)
        self.register_buffer("router_weight", router.weight.detach().clone())
        self.register_buffer("router_bias", router.bias.detach().clone())
        self.begin(1)

    router_weight: Tensor
    router_bias: Tensor

    def begin(self, round: int) -> None:
        risen = (self.experts - self.least) * min(1.0, (round - 1) / self.rising) if self.rising else 0.0
        self.chosen = self.least + int(risen + 0.5)

    @property
    def idle(self) -> bool:
        return self.chosen == self.experts

    def logits(self, token: Tensor) -> Tensor:
        """What the router says of tokens (B, ..., inputs): (B, ..., experts)."""
        return nn.functional.linear(token, self.router_weight, self.router_bias)

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The choice; what is drawn decides between equal logits alone, as where there are none to be seen."""
        logits = x[..., : self.experts].detach()
        order = torch.rand(logits.shape, generator=generator, dtype=x.dtype, device=x.device).argsort(-1)
        first = logits.gather(-1, order).argsort(dim=-1, descending=True, stable=True)[..., : self.chosen]
        return torch.zeros_like(logits).scatter(-1, order.gather(-1, first), 1.0)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        logits, units = x[..., : self.experts], x[..., self.experts :]
        mass = (logits - logits.detach().amax(-1, keepdim=True)).exp() * noise
        weights = mass / mass.sum(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        return units * weights.repeat_interleave(units.shape[-1] // self.experts, dim=-1)

    def unperturbed(self, x: Tensor) -> Tensor:
        return self.inject(x, torch.ones_like(x[..., : self.experts]))

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)

    def penalty(self, noise: Tensor) -> Tensor:
        """How far the mean share of experts that are passed is from k of all."""
        return (noise.mean() - self.chosen / self.experts).abs()

    def support(self, limit: int, acts_on: torch.Size) -> Tensor | None:
        """All choices of all tokens."""
        tokens = math.prod(acts_on[:-1])
        if math.comb(self.experts, self.chosen) ** tokens > limit:
            return None
        choices = [
            torch.zeros(self.experts).index_fill(0, torch.tensor(chosen), 1.0)
            for chosen in itertools.combinations(range(self.experts), self.chosen)
        ]
        every = [torch.stack(each) for each in itertools.product(choices, repeat=tokens)]
        return torch.stack(every).view(len(every), *acts_on[:-1], self.experts)

    def read(self, gradient: Mapping[str, Tensor], name: str, acts_on: torch.Size) -> Tensor | None:
        """The units of an expert that was not chosen have gradients of exactly zero, where there is one token."""
        found = gradient.get(self.weight)
        if found is None or math.prod(acts_on[:-1]) != 1 or not found.any():
            return None
        passed = found.reshape(self.experts, -1).any(dim=1)
        return passed.to(found).view(*acts_on[:-1], self.experts)

    def extra_repr(self) -> str:
        return f"experts={self.experts}, least={self.least}, rising={self.rising}"

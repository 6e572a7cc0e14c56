"""Nested dropout (Rippel, Gelbart, Adams, ICML 2014): all units behind a random one are dropped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.client.site import RARE
from defenses.stochastic.layer import StochasticLayer


class NestedDropout(StochasticLayer):
    """The first b units of a vector stay, with b from a geometric distribution that ends at the last unit.

    A child of the linear layer that is given the vector. Nothing is scaled, and in evaluation mode all units stay.

    Args:
        ends: the chance that the vector ends behind a unit if it has come so far, in [0, 1).

    Shape:
        x: (B, ..., width), each vector with a draw of its own; noise: like x, ones and then zeros when drawn, in [0, 1]
        and never rising when relaxed.
    """

    def __init__(self, ends: float) -> None:
        super().__init__()
        self.ends = ends  # no rate at which units are dropped

    @property
    def idle(self) -> bool:
        return self.ends == 0

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        goes_on = torch.empty_like(x).bernoulli_(1 - self.ends, generator=generator)
        goes_on[..., 0] = 1.0
        return goes_on.cumprod(dim=-1)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        return x * noise

    def project(self, noise: Tensor) -> Tensor:
        """Between lowering units to those before them and raising them to those behind; the first always stays."""
        inside = noise.clamp(0, 1)
        inside = torch.cat([torch.ones_like(inside[..., :1]), inside[..., 1:]], dim=-1)
        lowered, raised = inside.cummin(dim=-1).values, inside.flip(-1).cummax(dim=-1).values.flip(-1)
        return (lowered + raised) / 2

    def penalty(self, noise: Tensor) -> Tensor:
        """How far the mean share of units that stay is from what it is to be."""
        width = noise.shape[-1]
        expected = sum((1 - self.ends) ** unit for unit in range(width)) / width
        return (noise.mean() - expected).abs()

    def support(self, limit: int, acts_on: torch.Size) -> Tensor | None:
        """Where each vector may end, but for the last units, which one hardly ever comes to."""
        vectors, width = math.prod(acts_on[:-1]), acts_on[-1]
        units = width
        if self.ends > 0:
            units = min(width, math.ceil(math.log(RARE / vectors) / math.log1p(-self.ends)))
        if units**vectors > limit:
            return None
        ended = torch.ones(width, width).tril()[:units]
        every = [torch.stack(each) for each in itertools.product(ended, repeat=vectors)]
        return torch.stack(every).view(len(every), *acts_on)

    def read(self, gradient: Mapping[str, Tensor], name: str, acts_on: torch.Size) -> Tensor | None:
        """Units that were dropped leave columns of zeros in the gradient of the layer behind, of one example."""
        found = gradient.get(f"{name.rpartition('.')[0]}.weight".lstrip("."))
        if found is None or acts_on != (1, found.shape[1]) or not found.any():
            return None
        from_the_end = found.any(dim=0).flip(0).to(found).cummax(dim=0).values
        return from_the_end.flip(0)[None]

    def extra_repr(self) -> str:
        return f"ends={self.ends}"

"""Stochastic depth (Huang et al., ECCV 2016): whole residual branches are dropped; or whole blocks (LayerDrop)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from defenses.client.site import EXAMPLE, STEP, Site
from defenses.stochastic.layer import StochasticLayer


class StochasticDepth(StochasticLayer):
    """`branch * b / (1 - p)` with a bit b from Bernoulli(1 - p), as `torchvision.ops.stochastic_depth`.

    A child of the branch, or of its last layer: all parameters below its parent lie in the branch.

    Args:
        p: the rate at which the branch is dropped, in [0, 1).
        per: what has a bit of its own, each mini-batch or each of its examples.

    Shape:
        x: (B, ...); noise: () or (B,), 0 or 1 when drawn, in [0, 1] when relaxed.
    """

    def __init__(self, p: float, per: Literal["batch", "example"] = "batch") -> None:
        super().__init__()
        self.p = p
        self.axes = STEP if per == "batch" else EXAMPLE

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        size = x.shape[:1] if "example" in self.axes else ()
        return x.new_empty(size).bernoulli_(1 - self.p, generator=generator)

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        return x * noise.reshape(noise.shape + (1,) * (x.dim() - noise.dim())) / (1 - self.p)

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)

    def support(self, limit: int, acts_on: torch.Size) -> Tensor | None:
        bits = torch.tensor([0.0, 1.0])
        if "example" not in self.axes:
            return bits if limit >= 2 else None
        return torch.cartesian_prod(*[bits] * acts_on[0]).view(-1, acts_on[0]) if 2 ** acts_on[0] <= limit else None

    def read(self, gradient: Mapping[str, Tensor], name: str, acts_on: torch.Size) -> Tensor | None:
        """A dropped branch's gradients are exactly zero. Of several examples with bits of their own, only that all
        were dropped can be told."""
        branch = name.rpartition(".")[0] + "."
        found = [value for key, value in gradient.items() if key.startswith(branch)]
        if not found:
            return None
        passed = any(bool(value.any()) for value in found)
        if "example" not in self.axes:
            return found[0].new_tensor(float(passed))
        return None if passed and acts_on[0] != 1 else found[0].new_full(acts_on[:1], float(passed))

    def extra_repr(self) -> str:
        return f"p={self.p}, axes={self.axes}"


class LayerDrop(StochasticDepth):
    """LayerDrop (Fan, Grave, Joulin, ICLR 2020): a block with a bit b, `b * block(x) + (1 - b) * x`.

    A child of the block.

    Shape:
        x: (B, 2, ...), what enters the block beside what leaves it; returns one of them (B, ...).
    """

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        bit = noise.reshape(noise.shape + (1,) * (x.dim() - 1 - noise.dim()))
        return bit * x[:, 1] + (1 - bit) * x[:, 0]

    def unperturbed(self, x: Tensor) -> Tensor:
        return x[:, 1]


class DropPath(StochasticDepth):
    """Stochastic depth as a layer that users write into their blocks: what passes it is the branch, wherever that lies.

    Args:
        scaled: whether a branch that stays is divided by its chance to stay.
    """

    read = Site.read  # its parent holds more than the branch

    def __init__(self, p: float, per: Literal["batch", "example"] = "example", *, scaled: bool = True) -> None:
        super().__init__(p, per)
        self.scaled = scaled

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        kept = super().inject(x, noise)
        return kept if self.scaled else kept * (1 - self.p)

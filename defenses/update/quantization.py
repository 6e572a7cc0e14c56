"""Round the update to a few levels, at random, so that it is right on average."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.site import Site
from defenses.client.spread import Spread


@register("quantization")
class Quantization(Defense):
    """QSGD (Alistarh et al., NeurIPS 2017): each tensor's entries become `|u| sign(u_i) k / levels`, k a whole number,
    rounded up or down at random so that their mean is the entry itself; |u| is the tensor's L2 norm.

    An attacker who knows of it matches that mean: the update as it was.

    Args:
        levels: the number of levels above zero, at least 1.
    """

    keeps_direction = True

    def __init__(self, *, levels: int = 16) -> None:
        if levels < 1:
            raise ValueError(f"quantization: levels = {levels} is not a whole number of at least 1")
        self.levels = levels

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        sent = {}
        for name, value in update.items():
            norm = value.norm().clamp_min(torch.finfo(value.dtype).tiny)
            level = (self.levels * value.abs() / norm + turn.draw(name, _Threshold(), value)).floor()
            sent[name] = norm * value.sign() * level / self.levels
        return sent

    def surrogate(self, update: Tensors, *, turn: Turn) -> Tensors:
        return update


    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        """On average over a parameter: rounding right on average adds the variance to the mean square. What that was
        shows in the smallest level that was sent."""
        return Spread({name: self._error(value.double()) for name, value in observed.items()})

    def _error(self, sent: Tensor) -> Tensor:
        sizes = sent.abs()
        step = torch.where(sizes > 0, sizes, torch.inf).amin()
        if step.isinf():
            return sent.new_zeros(())
        variance = (sent.square().sum() - (self.levels * step).square()) / sent.numel()
        return torch.where(variance > 0, variance, step.square() / 6).sqrt()


class _Threshold(Site):
    """Where each entry is rounded up: uniform in [0, 1)."""

    structural = False

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    def rest(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 0.5)

"""Send the signs of the update alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.spread import Spread


@register("sign")
class Sign(Defense):
    """Replace every entry by its sign, times the mean magnitude of its tensor.

    signSGD (Bernstein et al., ICML 2018) with the scale of Karimireddy et al. ("Error Feedback Fixes SignSGD", ICML
    2019), so that a federation can average what is sent. Entries that are not more than rounding errors of the largest
    one have no sign: zero is sent. An attacker who knows of it matches a soft sign.
    """

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        largest = torch.stack([value.abs().amax() for value in update.values() if value.numel()]).amax()
        return {
            name: value.abs().mean() * value.sign() * (value.abs() > torch.finfo(value.dtype).eps * largest)
            for name, value in update.items()
        }

    def surrogate(self, update: Tensors, *, turn: Turn) -> Tensors:
        """`u / (|u| + mean |u|)`, at the same scale: the sign has no derivative."""
        return {name: _soft(value) for name, value in update.items()}


    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        """As large as the entries are: their sizes are lost."""
        return Spread({name: value.double().abs().mean() for name, value in observed.items()})


def _soft(value: torch.Tensor) -> torch.Tensor:
    scale = value.abs().mean() + torch.finfo(value.dtype).tiny
    return scale * value / (value.abs() + scale)

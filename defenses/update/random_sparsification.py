"""Send a random share of the update's entries."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.site import Site
from defenses.client.spread import Spread
from defenses.coding import bits_of


@register("random_sparsification")
class RandomSparsification(Defense):
    """Keep entries of the whole update that are drawn at random, anew in each round, and set the others to zero.

    The subsampling of Konečný et al., "Federated Learning: Strategies for Improving Communication Efficiency", 2016
    (arXiv 1610.05492), without its scaling: what is sent is sent as it is. Which entries were kept shows in the update,
    and an attacker who knows the defense compares these alone.

    Args:
        keep: the fraction of entries that is kept, in (0, 1]; at least one entry is.
    """

    keeps_direction = True

    def __init__(self, *, keep: float = 0.1) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"random_sparsification: keep = {keep} is not in (0, 1]")
        self.keep = keep

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        flat = torch.cat([value.flatten() for value in update.values()])
        sent = flat * turn.draw("kept", _Kept(self.keep), flat)
        pieces = sent.split([value.numel() for value in update.values()])
        return {name: piece.view_as(value) for (name, value), piece in zip(update.items(), pieces)}

    def bits(self, update: Tensors) -> int:
        """Places need not be sent: they follow from a seed (Konečný et al.), of 64 bits."""
        entries = sum(value.numel() for value in update.values())
        width = 8 * next(iter(update.values())).element_size()
        return min(bits_of(update), 64 + width * math.ceil(self.keep * entries))

    def selection(self, observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The entries that were sent."""
        return {name: value != 0 for name, value in observed.items()}


    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        """Nothing is on the entries that were sent, and the others say nothing."""
        return Spread.left(self.selection(observed)) if self.keep < 1 else None


class _Kept(Site):
    """Which entries are kept, 1 or 0 each. One unknown an entry would fit any image: it is seen, or stays unknown."""

    structural = False

    def __init__(self, keep: float) -> None:
        self.keep = keep

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        device = x.device if generator is None else generator.device
        order = torch.randperm(x.numel(), generator=generator, device=device).to(x.device)
        return torch.zeros_like(x).scatter(0, order[: math.ceil(self.keep * x.numel())], 1)

    def rest(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.keep)

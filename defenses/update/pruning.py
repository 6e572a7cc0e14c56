"""Send only the largest entries of the update."""

from __future__ import annotations

import math

import torch

from defenses.base import Defense, Tensors, register


@register("pruning")
class Pruning(Defense):
    """Keep the largest entries by magnitude over the whole update and set the others to zero.

    The gradient compression of Lin et al., ICLR 2018, which Zhu et al., NeurIPS 2019, name as a defense.

    Args:
        keep: the fraction of entries that is kept, in (0, 1]; at least one entry is.
    """

    def __init__(self, *, keep: float = 0.1) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"pruning: keep = {keep} is not in (0, 1]")
        self.keep = keep

    def on_update(self, update: Tensors, *, generator: torch.Generator) -> Tensors:
        flat = torch.cat([value.flatten() for value in update.values()])
        largest = flat.abs().topk(math.ceil(self.keep * flat.numel()), sorted=False).indices
        pruned = torch.zeros_like(flat)
        pruned[largest] = flat[largest]
        pieces = pruned.split([value.numel() for value in update.values()])
        return {name: piece.view_as(value) for (name, value), piece in zip(update.items(), pieces)}

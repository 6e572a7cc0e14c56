"""Send only the largest entries of the update."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.base import Defense, Deployment, Tensors, Turn, register
from defenses.client.spread import Spread


@register("pruning")
class Pruning(Defense):
    """Keep the largest entries by magnitude over the whole update and set the others to zero.

    The gradient compression of Lin et al., ICLR 2018, which Zhu et al., NeurIPS 2019, name as a defense.

    Args:
        keep: the fraction of entries that is kept, in (0, 1]; at least one entry is.
        error_feedback: what was not sent is added to the update of the client's next round, as Lin et al. do.
    """

    def __init__(self, *, keep: float = 0.1, error_feedback: bool = False) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"pruning: keep = {keep} is not in (0, 1]")
        self.keep = keep
        self.error_feedback = error_feedback

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        if self.error_feedback:
            update = {name: value + turn.remembered(name, torch.zeros_like(value)) for name, value in update.items()}
        flat = torch.cat([value.flatten() for value in update.values()])
        largest = flat.abs().topk(math.ceil(self.keep * flat.numel()), sorted=False).indices
        kept = torch.zeros_like(flat).scatter(0, largest, 1)
        pruned = flat * kept
        pieces = pruned.split([value.numel() for value in update.values()])
        sent = {name: piece.view_as(value) for (name, value), piece in zip(update.items(), pieces)}
        if self.error_feedback:
            for name, value in update.items():
                turn.remember(name, value - sent[name])
        return sent

    def refuses(self, deployment: Deployment) -> str | None:
        if self.error_feedback and deployment.rounds < 2:
            return "pruning: error_feedback acts on a client's next round; it needs 2 or more rounds"
        return None

    def selection(self, observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The entries that were sent. What was not is smaller than all of them, and says no more than that."""
        return {name: value != 0 for name, value in observed.items()}


    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        """Nothing is on the entries that were sent, and the others say nothing. None where fewer are left than it
        would keep: it took nothing away, and the zeros are zeros."""
        total = sum(value.numel() for value in observed.values())
        left = sum(int(value.count_nonzero()) for value in observed.values())
        return Spread.left(self.selection(observed)) if math.ceil(self.keep * total) <= left < total else None

"""What attacks make of epochs that took the client's examples in an order that nobody tells: each pass over them, or
each draw for them, stands among the images by itself; in the answer each image is once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attacks.base import Reconstruction
from attacks.victim import Victim
from defenses.client.training import LocalTraining


@dataclass(frozen=True, kw_only=True)
class Passes(LocalTraining):
    """Epochs of which each has examples of its own, in the order in which its steps take them."""

    def batches(self, examples: int, batch_size: int | None, order: Tensor | None) -> Sequence[slice | Tensor]:
        """What each step takes of the examples of all epochs, (epochs * N,)."""
        assert self.epochs is not None
        own = examples // self.epochs
        size = batch_size or own
        return [
            slice(epoch * own + start, epoch * own + min(start + size, own))
            for epoch in range(self.epochs)
            for start in range(0, own, size)
        ]

    @classmethod
    def of(cls, local: LocalTraining) -> Passes:
        """The same local training otherwise."""
        return cls(**{name: getattr(local, name) for name in LocalTraining.names()})


def epochs_of(victim: Victim) -> int:
    """How many epochs its update is of; 1 where it takes fresh batches."""
    local = victim.observation.local
    return 1 if local is None or victim.kind == "gradient" else local.epochs or 1


def repeated(victim: Victim, passes: int, **changes: Any) -> Victim:
    """The victim with its images, and its labels, several times, one pass over them after the other."""
    labels = None if victim.labels is None else torch.cat([victim.labels] * passes)
    return replace(victim, images=passes * victim.images, labels=labels, passes=passes, **changes)


def once(answer: Reconstruction, passes: int) -> Reconstruction:
    """The answer with each image once, and its label: the mean of what it is in all passes.

    An image of the first pass is matched to one of each other pass, the nearest pair first, of the same label.
    """
    if passes == 1:
        labels = answer.labels
        return replace(answer, labels=None if labels is None else labels[: len(answer.images)])
    images = answer.images.unflatten(0, (passes, -1))
    labels = answer.labels.unflatten(0, (passes, -1)) if answer.labels is not None else None
    together = images[0].clone()
    for later in range(1, passes):
        apart = torch.cdist(images[0].flatten(1).double(), images[later].flatten(1).double())
        if labels is not None:
            apart = apart + (labels[0][:, None] != labels[later]) * 1e6  # only where there is no other
        together += images[later][_pairs(apart)]
    snapshots = answer.snapshots
    if snapshots is not None:
        snapshots = replace(snapshots, images=snapshots.images[:, : len(together)])
    return replace(
        answer,
        images=together / passes,
        labels=None if labels is None else labels[0],
        snapshots=snapshots,
    )


def _pairs(apart: Tensor) -> Tensor:
    """For each row of (B, B) distances a column of its own, (B,): the nearest pair first."""
    left, found = apart.clone(), torch.zeros(len(apart), dtype=torch.int64)
    for _ in range(len(apart)):
        row, column = divmod(int(left.argmin()), len(apart))
        found[row] = column
        left[row], left[:, column] = torch.inf, torch.inf
    return found

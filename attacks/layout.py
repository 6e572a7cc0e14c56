"""Where each unknown of a problem lies, so that an iteration moves all of them as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.unknowns import Guess, Unknown


class Layout:
    """Where each unknown lies in a problem's row: all unknowns of N problems are one tensor (N, D).

    Attributes:
        names: of what is optimised.
        told: the names in a guess that it stands for.
    """

    def __init__(self, start: Guess, unknowns: Sequence[Unknown]) -> None:
        self.names = list(start)
        self._shapes = {name: value.shape[1:] for name, value in start.items()}
        self._sizes = [shape.numel() for shape in self._shapes.values()]
        self._owners = [next(unknown for unknown in unknowns if unknown.owns(name)) for name in start]
        self.told = list(self._values({name: value[:1] for name, value in start.items()}))

    def pack(self, guess: Guess) -> Tensor:
        return torch.cat([guess[name].reshape(len(guess[name]), -1) for name in self.names], dim=1)

    def unpack(self, rows: Tensor) -> dict[str, Tensor]:
        """Views of the rows (N, D) by name, (N, ...)."""
        parts = rows.split(self._sizes, dim=1)
        return {name: part.unflatten(1, shape) for (name, shape), part in zip(self._shapes.items(), parts)}

    def guess(self, rows: Tensor) -> dict[str, Tensor]:
        """The values that the rows (N, D) stand for, by name, (N, ...)."""
        return self._values(self.unpack(rows))

    def _values(self, free: Guess) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for unknown in dict.fromkeys(self._owners):
            found |= unknown.values({name: free[name] for name, owner in zip(free, self._owners) if owner is unknown})
        return found

    def direct(self, gradient: Tensor) -> Tensor:
        """The descent directions (N, D) that the unknowns make of their gradient."""
        parts = [owner.direction(part) for owner, part in zip(self._owners, gradient.split(self._sizes, dim=1))]
        return torch.cat(parts, dim=1)

    def project(self, rows: Tensor) -> Tensor:
        """The rows (N, D) with every unknown put back into its set."""
        parts = zip(self._owners, self.unpack(rows).items())
        return self.pack({name: owner.project(name, value) for owner, (name, value) in parts})

"""What a defense leaves of a parameter's update that still says anything: some of its entries, or spaces of its matrix.

Either is a projection, which an attacker applies to what it simulates and to what it observed before it compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Spaces:
    """Of a weight as a matrix G (outputs, all else) `U^T G` and `G V`: all but `(1 - U U^T) G (1 - V V^T)`.

    Of a G whose largest singular values alone were sent, with their vectors U and V, this is what is known: it is what
    was sent. That U and V are the vectors of the largest ones is the rest, and is not used.

    Args:
        left: U, (..., outputs, k) float64; orthonormal columns, and zeros where others of a batch have more.
        right: V, (..., all else, k).
    """

    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, sent: Tensor) -> Spaces:
        """Of what was sent of a weight. A singular value so small that it may be rounding is left out: fewer of them
        say less, and nothing wrong."""
        matrix = sent.detach().flatten(1).double()
        matrix = matrix / matrix.abs().amax().clamp_min(torch.finfo(matrix.dtype).tiny)
        short, long = (matrix, matrix.T) if matrix.shape[0] <= matrix.shape[1] else (matrix.T, matrix)
        squares, vectors = torch.linalg.eigh(short @ long)
        kept = squares > torch.finfo(sent.dtype).eps * squares[-1:].clamp_min(torch.finfo(matrix.dtype).tiny)
        basis = vectors[:, kept]
        other = long @ basis / squares[kept].sqrt()
        return cls(basis, other) if short is matrix else cls(other, basis)

    @classmethod
    def of_mask(cls, mask: Tensor) -> Spaces:
        """All of a weight, or nothing of it where its mask (bool) leaves something out."""
        matrix = mask.flatten(1)
        unit = torch.eye(len(matrix), dtype=torch.float64, device=mask.device) * float(bool(mask.all()))
        return cls(unit, unit.new_zeros(matrix.shape[1], len(matrix)))

    def any(self) -> Tensor:
        return self.left.any() | self.right.any()

    def project(self, value: Tensor) -> Tensor:
        """What of a weight (..., *shape) lies there, in its shape."""
        matrix = value.reshape(*self.left.shape[:-1], -1)
        left, right = self.left.to(value.dtype), self.right.to(value.dtype)
        across = matrix @ right
        along = left.transpose(-1, -2) @ (matrix - across @ right.transpose(-1, -2))
        return (left @ along + across @ right.transpose(-1, -2)).reshape(value.shape)

    def of_problems(self, chosen: Any) -> Spaces:
        return Spaces(self.left[chosen], self.right[chosen])


Kept = Tensor | Spaces
"""A mask (bool) of entries, in the parameter's shape; or spaces."""

MASK, LEFT, RIGHT = ":kept", ":left", ":right"
"""Behind a parameter's name: what is kept of it, among tensors by name."""


def remains(kept: Kept, value: Tensor) -> Tensor:
    """What is kept of a parameter's update."""
    return kept.project(value) if isinstance(kept, Spaces) else value * kept


def both(first: Kept, second: Kept) -> Kept:
    """What two defenses keep of one parameter. Of some entries of a matrix nothing is known of its spaces."""
    if isinstance(first, Spaces) and isinstance(second, Spaces):
        raise ValueError("the spaces of what was sent are those of the last defense alone")
    if isinstance(first, Spaces):
        return both(second, first)
    if isinstance(second, Spaces):
        return second if bool(first.all()) else torch.zeros_like(first)
    return first & second


def stacked(each: Sequence[Kept]) -> Kept:
    """Of several clients' updates of one parameter: (N, ...)."""
    masks = [one for one in each if isinstance(one, Tensor)]
    if len(masks) == len(each):
        return torch.stack(masks)
    spaces = [one if isinstance(one, Spaces) else Spaces.of_mask(one) for one in each]
    return Spaces(*(_padded([getattr(one, side) for one in spaces]) for side in ("left", "right")))


def _padded(bases: Sequence[Tensor]) -> Tensor:
    most = max(basis.shape[1] for basis in bases)
    return torch.stack([nn.functional.pad(basis, (0, most - basis.shape[1])) for basis in bases])


def as_tensors(name: str, kept: Kept) -> dict[str, Tensor]:
    """What is kept of a parameter, as tensors by name."""
    if isinstance(kept, Spaces):
        return {name + LEFT: kept.left, name + RIGHT: kept.right}
    return {name + MASK: kept}


def from_tensors(name: str, held: Mapping[str, Tensor]) -> Kept:
    """What `as_tensors` made tensors of."""
    if name + LEFT in held:
        return Spaces(held[name + LEFT], held[name + RIGHT])
    return held[name + MASK]

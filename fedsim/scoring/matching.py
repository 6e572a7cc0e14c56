"""Which reconstruction shows which original: a batch comes back in any order."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def match(original: Tensor, reconstruction: Tensor) -> list[int | None]:
    """The assignment of reconstructions to originals with the least total squared error.

    Each reconstruction stands for one original at most. With more reconstructions than originals the surplus is left
    over; with fewer, some originals get none.

    Args:
        original: (B, C, H, W), pixels in [0, 1]; or (B, V, C, H, W), of which the nearest counts.
        reconstruction: (R, C, H, W), likewise.

    Returns:
        For each original the index of its reconstruction, or None.
    """
    several = original if original.dim() == reconstruction.dim() + 1 else original[:, None]
    a, b = several.flatten(2).double(), reconstruction.flatten(1).double()
    # Differences, not |a|^2 + |b|^2 - 2ab: that cancels where a reconstruction is nearly exact.
    rows_of = [torch.stack([(view - b).square().mean(1) for view in row]).amin(0) for row in a]
    errors = torch.stack(rows_of) if rows_of else torch.zeros(0, len(b))
    rows, columns = linear_sum_assignment(errors.numpy())
    order: list[int | None] = [None] * len(a)
    for row, column in zip(rows, columns):
        order[int(row)] = int(column)
    return order

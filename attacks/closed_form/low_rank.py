"""What rank an update has when its rounding is set aside, and the factors of that rank.

The gradient of a linear layer is a sum of one outer product an image: of low rank, plus rounding (or noise) that makes
it full. The singular values show where the one ends and the other begins. Only as many of them as are needed are
computed, from a random sketch (Halko, Martinsson and Tropp, SIAM Review 2011), so that nothing of the size of the
matrix is decomposed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import NotApplicable

OVERSAMPLE = 12  # singular values beyond those expected: they show the level of the noise
FIRST_LOOK = 256  # singular values, where nothing is known of the rank
GAP = 1.5  # between neighbours; those of noise lie closer
ABOVE_NOISE = 3.0  # a singular value counts if it exceeds the noise's largest by this factor
POWER_ITERATIONS = 2


@dataclass(frozen=True)
class LowRank:
    """matrix = left diag(values) right^T + noise.

    Args:
        left: (m, r), orthonormal columns.
        values: (r,), descending.
        right: (n, r), orthonormal columns.
        noise: (m,) standard deviation of an entry of each row of what is left over.
        column_noise: (n,) likewise of each column.
        residual: its norm, relative to that of the matrix.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    noise: Tensor
    column_noise: Tensor
    residual: float

    @property
    def rank(self) -> int:
        return len(self.values)

    def beyond(self, vectors: Tensor) -> Tensor:
        """How far each vector (B, k), of the first k columns, is from the space of the rows, together with the noise of
        these: (B,), relative to its length."""
        basis = torch.linalg.qr(self.right[: vectors.shape[1]]).Q
        unit = torch.nn.functional.normalize(vectors.to(basis), dim=1)
        return ((unit - unit @ basis @ basis.T).square().sum(1) + self.residual**2).sqrt()


def low_rank(matrix: Tensor, *, expected: int | None, generator: torch.Generator) -> LowRank:
    """The part of a matrix (m, n) that stands above its own noise.

    Args:
        expected: the rank is no higher than this; None where unknown.

    Raises:
        NotApplicable: the matrix is zero, or its singular values never fall to a floor.
    """
    full, norm = min(matrix.shape), float(matrix.norm())
    if norm == 0:
        raise NotApplicable("the first layer's gradient is zero")
    if expected is not None and expected >= full:
        raise NotApplicable(f"{expected} images leave the first layer no rank to spare: it has {full}")
    size = min(full, FIRST_LOOK if expected is None else expected + OVERSAMPLE)
    left, values, right = _sketch(matrix, size, generator)
    moved = _moved(matrix)
    while expected is None:
        expected = _last_gap(values[:moved], norm)
        if expected is None and size == full:
            raise NotApplicable("the first layer's gradient has no low rank: noise, or more images than it is wide")
        if expected is None:
            size = min(full, 2 * size)
            left, values, right = _sketch(matrix, size, generator)
    noise = max(float(values[expected]), 1e-15 * full * float(values[0]))
    rank = int((values[:expected] > ABOVE_NOISE * noise).sum())
    if rank == 0:
        raise NotApplicable("nothing in the first layer's gradient stands above its noise")
    left, values, right = left[:, :rank], values[:rank], right[:, :rank]
    rest = matrix - (matrix @ right) @ right.T
    noise_of_row = rest.norm(dim=1) / max(matrix.shape[1] - rank, 1) ** 0.5
    noise_of_column = rest.norm(dim=0) / max(matrix.shape[0] - rank, 1) ** 0.5
    return LowRank(left, values, right, noise_of_row, noise_of_column, float(rest.norm()) / norm)


def _moved(matrix: Tensor) -> int:
    """The rank of all that is not exactly zero, rounding included.

    A unit that no image reached has a row of zeros, in which there is no rounding either: beyond so many singular
    values comes a gap that says how many units were reached, and nothing of images.
    """
    return min(int(matrix.any(1).sum()), int(matrix.any(0).sum()))


def _last_gap(values: Tensor, norm: float) -> int | None:
    """How many singular values come before the last clear gap, if hardly any energy is left after it."""
    floor = 1e-15 * len(values) * float(values[0])
    considered = values[: max(2, len(values) - OVERSAMPLE + 1)].clamp_min(floor)
    gaps = (considered[:-1] > GAP * considered[1:]).nonzero()[:, 0]
    if len(gaps) == 0:
        return None
    rank = int(gaps[-1]) + 1
    left_over = max(norm**2 - float(values[:rank].square().sum()), 0.0) ** 0.5
    return rank if left_over < 1e-2 * norm else None


def _sketch(matrix: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The `size` largest singular triplets; all of them where the matrix is small."""
    if 3 * size >= min(matrix.shape):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left[:, :size], values[:size], right[:size].T
    test = torch.randn(matrix.shape[1], size, generator=generator, dtype=torch.float64).to(matrix)
    basis = torch.linalg.qr(matrix @ test).Q
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(matrix.T @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    inner, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ inner, values, right.T

"""When a sparse vector of a known space may be trusted: the evidence of its zeros.

A vector that was found is *sure* if its zeros determine it and nothing else does. A mixture of two sparse vectors has
zeros as well, where both are zero, and at an unknown rate of zeros no count tells it from a single one. What tells them
apart is how the zeros hang together: see `judge`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.closed_form.low_rank import LowRank

ZERO = 6.0  # an entry within this many standard deviations of its noise is a zero
WIDER = 10.0  # the noise may be up to this much larger than predicted
SPARE_ZEROS = 8  # zeros beyond the r - 1 that any vector can be given
DISTINCT = 2  # so many zeros to each entry that is just too large to be one
LEVERAGE = 0.97  # no single zero may be needed to determine the vector
SAME, ALIKE = 6, 1e-4  # so many quotients this close, relative to themselves, are no coincidence
FAIR, FEW, BLURRED = 0.3, 3, 0.05  # nor is such a share of all, and at least so many, if the noise is no wider


@dataclass(frozen=True)
class Directions:
    """Vectors of the space, those that are sure before the others.

    Args:
        weights: (r, k): coefficients, one vector a column.
        zeros: (k,) how many entries are zero.
        excess: (k,) by what factor the error that they leave exceeds the one predicted.
        sure: (k,) whether its zeros determine it.
    """

    weights: Tensor
    zeros: Tensor
    excess: Tensor
    sure: Tensor

    @property
    def count(self) -> int:
        """How many are sure."""
        return int(self.sure.sum())

    def pick(self, indices: list[int]) -> Directions:
        return Directions(self.weights[:, indices], self.zeros[indices], self.excess[indices], self.sure[indices])

    def __add__(self, other: Directions) -> Directions:
        return Directions(
            torch.cat([self.weights, other.weights], 1),
            torch.cat([self.zeros, other.zeros]),
            torch.cat([self.excess, other.excess]),
            torch.cat([self.sure, other.sure]),
        )


class Rows:
    """The rows of the basis that say something, scaled to length 1 and whitened: z = whitened @ a.

    Args:
        whitened: (rows, r), whitened^T whitened = rows * identity.
        unwhiten: (r, r): coefficients w = unwhiten @ a of the basis, for a of length 1 in the whitened space.
    """

    def __init__(self, space: LowRank) -> None:
        lengths = space.left.norm(dim=1)
        # A row within its own noise belongs to a unit that no image reached: it is zero in every vector.
        noise = space.noise / space.values[0]
        alive = lengths > torch.maximum(ZERO * noise, 1e-12 * lengths.max())
        unit = space.left[alive] / lengths[alive, None]
        values, vectors = torch.linalg.eigh(unit.T @ unit / len(unit))
        self.unwhiten = vectors / values.clamp_min(1e-12 * values[-1]).sqrt() @ vectors.T
        self.whitened = unit @ self.unwhiten
        self.noise = space.noise[alive] / lengths[alive]
        self.values = space.values

    def tolerance(self, directions: Tensor) -> Tensor:
        """Standard deviation of the noise in z (rows, k) of directions (r, k) in the whitened space."""
        spread = (self.unwhiten @ directions / self.values[:, None]).norm(dim=0)
        return self.noise[:, None] * spread + 1e-12


def judge(rows: Rows, weights: Tensor) -> Directions:
    """Directions (r, k) in the whitened space, refitted to their zeros, and whether these determine them.

    The zeros Z determine w if the rows of Z leave one dimension free. They do so for any vector given r - 1 zeros, and
    for a mixture of several sparse vectors that cancels here and there; but then single rows are indispensable: their
    leverage is 1. In a vector that is sparse by itself many rows say the same, and no leverage is near 1.
    """
    found = [_judge_one(rows, weights[:, i : i + 1]) for i in range(weights.shape[1])]
    device = weights.device
    return Directions(
        torch.cat([weights[:, :0], *(column for column, *_ in found)], 1),
        torch.tensor([zeros for _, zeros, _, _ in found], dtype=torch.int64, device=device),
        torch.tensor([excess for _, _, excess, _ in found], dtype=weights.dtype, device=device),
        torch.tensor([sure for *_, sure in found], dtype=torch.bool, device=device),
    )


def _judge_one(rows: Rows, column: Tensor) -> tuple[Tensor, int, float, bool]:
    """One direction (r, 1): refitted, its zeros, their excess, the verdict."""
    enough = len(column) - 1 + SPARE_ZEROS
    zeros, excess, _ = _zeros(rows, column)
    if int(zeros.sum()) < enough:
        return column, int(zeros.sum()), excess, False
    weight = 1 / rows.tolerance(column)[zeros, 0]
    scaled = rows.whitened[zeros] * (weight / weight.max())[:, None]
    column = torch.linalg.eigh(scaled.T @ scaled).eigenvectors[:, :1]
    zeros, excess, doubtful = _zeros(rows, column)
    count = int(zeros.sum())
    # A spread at its limit is none of noise: what is called zeros are entries that happen to be small.
    sure = excess < WIDER and count >= max(enough, DISTINCT * doubtful) and _determined(rows, zeros, excess)
    # Some entries are small by chance: as many as lie beyond the zeros, evenly spread, lie among them and bend the fit.
    return column, count, excess * (1 + ZERO * doubtful / max(count, 1)), sure


def _zeros(rows: Rows, column: Tensor) -> tuple[Tensor, float, int]:
    """Which entries of the vector of a direction (r, 1) are zero, by what factor their spread exceeds the noise that
    was predicted, and how many entries are just too large to be zero.

    The prediction takes the noise of a row as even over its entries. Rounding is not: it is larger where pixels are.
    """
    size = ((rows.whitened @ column).abs() / rows.tolerance(column))[:, 0]
    excess = 1.0
    for _ in range(4):
        zeros = size <= ZERO * excess
        spread = float(size[zeros].square().mean().sqrt()) if bool(zeros.any()) else 0.0
        excess = min(max(spread, excess), WIDER)
    zeros = size <= ZERO * excess
    return zeros, excess, int(((size > ZERO * excess) & (size <= 3 * ZERO * excess)).sum())


def _determined(rows: Rows, zeros: Tensor, excess: float) -> bool:
    """Whether these rows leave exactly one dimension free, whichever of them is left out.

    A second one is free if all of it there is within what is called zero. That limit is one of root mean squares: noise
    alone has the square root of a sum of hundreds of squares, and does not come near it. A stricter one would be met by
    no vector at all where the space holds a delta that noise nearly covers.
    """
    part = rows.whitened[zeros]
    if part.shape[1] == 1:
        return True
    values, vectors = torch.linalg.eigh(part.T @ part)
    second = vectors[:, 1:2]
    if float(values[1]) < (ZERO * excess) ** 2 * float(rows.tolerance(second)[zeros].square().sum()):
        return False
    leverage = ((part @ vectors[:, 1:]).square() / values[1:]).sum(1)
    return float(leverage.max()) < LEVERAGE


def shared_quotients(rows: Rows, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Whether vector i is the same multiple of vector j in many entries, and which multiple: (k, k) each.

    Many are six that agree to four digits. Where noise blurs the digits it takes a fair share of all that could agree.
    """
    z, noise = rows.whitened @ weights, rows.tolerance(weights)
    zero = z.abs() <= ZERO * noise
    share = torch.zeros(z.shape[1], z.shape[1], dtype=torch.bool, device=z.device)
    factor = torch.zeros_like(share, dtype=z.dtype)
    blur = 2 * ZERO * noise.median(0).values  # of a typical entry, which is 1
    for i in range(z.shape[1]):
        off = zero | zero[:, i : i + 1]
        quotient = (z[:, i : i + 1] / z).masked_fill(off, torch.inf)
        quotient[:, i] = torch.inf
        quotient = quotient.sort(0).values
        fair = (FAIR * (~off).sum(0)).long().clamp_min(FEW).clamp_max(len(z))
        sharp, at = _narrowest(quotient, torch.full_like(fair, min(SAME, len(z))))
        blunt, _ = _narrowest(quotient, fair)
        limit = ALIKE + blur + blur[i]
        share[i] = (sharp < ALIKE) | ((blunt < limit) & (limit < BLURRED))
        factor[i] = quotient.gather(0, at[None])[0]
    return share, factor


def _narrowest(columns: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """In each sorted column (n, k), where so many neighbours (k,) lie closest: their relative width, and the middle."""
    index = torch.arange(len(columns), device=columns.device)[:, None]
    end = index + count - 1
    last = columns.gather(0, end.clamp_max(len(columns) - 1)).masked_fill(end >= len(columns), torch.inf)
    width = ((last - columns) / (0.5 * (last + columns)).abs()).nan_to_num(torch.inf)
    narrowest, at = width.min(0)
    return narrowest, at + count // 2


def unambiguous(rows: Rows, found: Directions) -> Tensor:
    """Which of the sure directions (k,) remain so beside the others.

    If all deltas are multiples of one vector on their supports, as with two classes and a single hidden layer of ReLU,
    differences of two are as sparse as each is, and no zeros tell them apart.
    """
    share, _ = shared_quotients(rows, found.weights)
    both = share & found.sure & found.sure[:, None]
    return found.sure & ~both.any(0) & ~both.any(1)

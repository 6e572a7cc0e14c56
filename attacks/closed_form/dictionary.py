"""Complete dictionary learning: the sparse vectors of a known low-dimensional space, and how sure each one is.

Given left (m, r), a basis of the space that r unknown sparse vectors d_b in R^m span, find coefficients w_b (r,) with
d_b = left w_b. Two stages:

1. *Where to look*: make the rows alike in length, whiten, and maximise the sum of fourth powers of Z0 A over orthogonal
   A. Sparse means spiky, and the fourth power likes spikes (Zhai, Yang, Liao, Wright, Ma, *Complete dictionary learning
   via l4-norm maximization over the orthogonal group*, JMLR 2020). One step is A <- polar(Z0^T Z^3).
2. *Exactly there*: the d_b are correlated, so A is only near. Iteratively reweighted least squares, each row weighted by
   1 / (z^2 + epsilon^2) with epsilon falling to the noise, walks to the nearest vector with exact zeros.

A vector found is *sure* if its zeros determine it and nothing else does (`_sure`): a mixture of two sparse vectors has
zeros as well, where both are zero, and at a given rate of zeros no count tells it from a single one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.closed_form.low_rank import LowRank

ZERO = 6.0  # an entry within this many standard deviations of its noise is a zero
WIDER = 10.0  # the noise may be this much larger than predicted
SPARE_ZEROS = 8  # zeros beyond the r - 1 that any vector can be given
LEVERAGE = 0.97  # no single zero may be needed to determine the vector
CHUNK = 16  # directions refined at once: bounds the memory


@dataclass(frozen=True)
class Directions:
    """Vectors of the space, the surest first; those called sure are linearly independent.

    Args:
        weights: (r, k): the vectors are left @ weights, of length 1.
        zeros: (k,) how many entries are zero.
        sure: (k,) whether its zeros determine it.
    """

    weights: Tensor
    zeros: Tensor
    sure: Tensor


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


def sparse_directions(space: LowRank, *, starts: int, generator: torch.Generator) -> Directions:
    """The sparsest vectors that were found from this many random starts; it stops when r are sure."""
    rows = Rows(space)
    rank = space.rank
    found = torch.zeros(rank, 0, dtype=torch.float64, device=space.left.device)
    zeros = torch.zeros(0, dtype=torch.int64, device=found.device)
    sure = torch.zeros(0, dtype=torch.bool, device=found.device)
    for _ in range(starts):
        start = torch.randn(rank, rank, generator=generator, dtype=torch.float64).to(found)
        new = _refine(rows, _spiky(rows.whitened, _outside(start, found[:, sure])))
        new, new_zeros, new_sure = _sure(rows, new)
        found = torch.cat([found, new], 1)
        zeros, sure = torch.cat([zeros, new_zeros]), torch.cat([sure, new_sure])
        keep = _independent(found, zeros, sure)
        found, zeros, sure = found[:, keep], zeros[keep], sure[keep]
        if int(sure.sum()) == rank:
            break
    weights = rows.unwhiten @ found
    return Directions(weights / weights.norm(dim=0), zeros, sure)


def _outside(start: Tensor, known: Tensor) -> Tensor:
    """An orthogonal start (r, r - k) away from the k directions that are known."""
    if known.shape[1] == 0:
        return torch.linalg.qr(start).Q
    both = torch.cat([known, start], 1)[:, : len(start)]
    return torch.linalg.qr(both).Q[:, known.shape[1] :]


def _spiky(whitened: Tensor, basis: Tensor, iterations: int = 60) -> Tensor:
    """Directions within the span of an orthonormal basis (r, q) at a maximum of the fourth power: (r, q), orthonormal."""
    inside = whitened @ basis
    turn = torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
    for _ in range(iterations):
        left, _, right = torch.linalg.svd(inside.T @ (inside @ turn).pow(3), full_matrices=False)
        before, turn = turn, left @ right
        if float((before - turn).abs().max()) < 1e-3:
            break
    return basis @ turn


def _refine(rows: Rows, directions: Tensor) -> Tensor:
    """Each direction (r, k) moved to the vector with exact zeros nearest to it."""
    return torch.cat([_refine_chunk(rows, part) for part in directions.split(CHUNK, 1)], 1)


def _refine_chunk(rows: Rows, directions: Tensor) -> Tensor:
    z0 = rows.whitened
    for iteration in range(40):
        z = z0 @ directions
        width = torch.maximum(0.7**iteration * z.square().mean(0).sqrt(), rows.tolerance(directions))
        weight = 1 / (z.square() + width.square())
        normal = torch.stack([z0.T @ (z0 * column[:, None]) for column in weight.unbind(1)])
        moved = torch.linalg.solve(normal, directions.T[:, :, None])[:, :, 0].T
        moved = moved / moved.norm(dim=0)
        still = ((moved * directions).sum(0).abs() > 1 - 1e-14).all()
        directions = moved
        if bool(still) and iteration > 8:
            break
    return directions


def _sure(rows: Rows, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Directions (r, k) refitted to their zeros, the number of zeros, and whether these determine the direction.

    The zeros Z determine w if the rows of Z leave one dimension free. They do so for any vector given r - 1 zeros, and
    for a mixture of several sparse vectors that cancels here and there; but then single rows are indispensable: their
    leverage is 1. In a vector that is sparse by itself many rows say the same, and no leverage is near 1.
    """
    refitted, counts, verdicts = [], [], []
    enough = len(directions) - 1 + SPARE_ZEROS
    for direction in directions.unbind(1):
        column, verdict = direction[:, None], False
        zeros, scale, _ = _zeros(rows, column)
        if int(zeros.sum()) >= enough:
            weight = 1 / rows.tolerance(column)[zeros, 0]
            scaled = rows.whitened[zeros] * (weight / weight.max())[:, None]
            column = torch.linalg.eigh(scaled.T @ scaled).eigenvectors[:, :1]
            zeros, scale, doubtful = _zeros(rows, column)
            verdict = int(zeros.sum()) >= max(enough, 2 * doubtful) and _determined(rows, zeros, scale)
        refitted.append(column[:, 0])
        counts.append(int(zeros.sum()))
        verdicts.append(verdict)
    return (
        torch.stack(refitted, 1),
        torch.tensor(counts, device=directions.device),
        torch.tensor(verdicts, device=directions.device),
    )


def _zeros(rows: Rows, column: Tensor) -> tuple[Tensor, float, int]:
    """Which entries of the vector of a direction (r, 1) are zero, by what factor their spread exceeds the noise that
    was predicted, and how many entries are just too large to be zero.

    The prediction takes the noise of a row as even over its entries. Rounding is not: it is larger where pixels are.
    """
    size = ((rows.whitened @ column).abs() / rows.tolerance(column))[:, 0]
    scale = 1.0
    for _ in range(4):
        zeros = size <= ZERO * scale
        spread = float(size[zeros].square().mean().sqrt()) if bool(zeros.any()) else 0.0
        scale = min(max(spread, scale), WIDER)
    zeros = size <= ZERO * scale
    return zeros, scale, int(((size > ZERO * scale) & (size <= 3 * ZERO * scale)).sum())


def _determined(rows: Rows, zeros: Tensor, scale: float) -> bool:
    """Whether these rows leave exactly one dimension free, whichever of them is left out."""
    part = rows.whitened[zeros]
    if part.shape[1] == 1:
        return True
    values, vectors = torch.linalg.eigh(part.T @ part)
    second = vectors[:, 1:2]
    if float(values[1]) < (2 * ZERO * scale) ** 2 * float(rows.tolerance(second)[zeros].square().sum()):
        return False
    leverage = ((part @ vectors[:, 1:]).square() / values[1:]).sum(1)
    return float(leverage.max()) < LEVERAGE


def _independent(directions: Tensor, zeros: Tensor, sure: Tensor) -> Tensor:
    """Indices of the directions to keep: the sure ones first, by their zeros, as far as they are independent."""
    order = sorted(range(directions.shape[1]), key=lambda i: (-int(sure[i]), -int(zeros[i])))
    kept: list[int] = []
    basis = directions[:, :0]
    for i in order:
        left = directions[:, i] - basis @ (basis.T @ directions[:, i])
        left = left - basis @ (basis.T @ left)
        if float(left.norm()) > 1e-3 and len(kept) < len(directions):
            kept.append(i)
            basis = torch.cat([basis, (left / left.norm())[:, None]], 1)
    return torch.tensor(kept, device=directions.device)

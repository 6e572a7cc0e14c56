"""Complete dictionary learning: the sparse vectors of a known low-dimensional space, and how sure each one is.

Given left (m, r), a basis of the space that r unknown sparse vectors d_b in R^m span, find coefficients w_b (r,) with
d_b = left w_b:

1. *Where to look*: make the rows alike in length, whiten, and maximise the sum of fourth powers of Z0 A over orthogonal
   A. Sparse means spiky, and the fourth power likes spikes (Zhai, Yang, Liao, Wright, Ma, *Complete dictionary learning
   via l4-norm maximization over the orthogonal group*, JMLR 2020). One step is A <- polar(Z0^T Z^3).
2. *Exactly there*: the d_b are correlated, so A is only near. Iteratively reweighted least squares, for a measure that
   tends to the number of non-zeros, walks to a vector with exact zeros; the slower it tends there, the farther it sees.
3. *Apart*: where two d_b are much alike the walk may end at d_1 - c d_2. With d_2 at hand that shows: wherever d_1 is
   zero and d_2 is not, the quotient of the two vectors is the same number, -c. Such a mixture can have zeros enough to
   be sure by itself; then d_1, which has more of them, takes its place.

Which of the vectors found are to be trusted is told by their zeros: `sparsity`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable
from attacks.closed_form.low_rank import LowRank
from attacks.closed_form.sparsity import SPARE_ZEROS, Directions, Rows, judge, shared_quotients, unambiguous

FAST, SLOW = 0.7, 0.94  # by what factor the width of refinement falls in a step: first attempt, later ones
DECIDED, NARROWEST = 1e-2, 1e-6  # widths, where a typical entry is 1
HOPELESS = 2  # starts without any sure direction, after which there are no zeros to be found
DEPENDENT = 1e-3  # a direction with less than this outside the span of others is one of them
CHUNK = 16  # directions refined at once: bounds the memory


def sparse_directions(space: LowRank, *, starts: int, generator: torch.Generator) -> Directions:
    """The sparsest vectors that were found from this many random starts; it stops when r are sure beside each other.

    Raises:
        NotApplicable: the space has too many dimensions for its rows.
    """
    rows = Rows(space)
    rank = space.rank
    if 2 * rank > len(rows.whitened):
        raise NotApplicable(
            f"a batch of rank {rank} needs a wider first layer: {len(rows.whitened)} units were reached"
        )
    found = judge(rows, torch.zeros(rank, 0, dtype=torch.float64, device=space.left.device))
    settled = found.sure
    for attempt in range(starts):
        start = torch.randn(rank, rank, generator=generator, dtype=torch.float64).to(space.left)
        start = _outside(start, found.weights[:, settled])
        if attempt % 2 == 0:
            start = _spiky(rows.whitened, start)
        found = independent(
            found + judge(rows, _refine(rows, start, FAST if attempt == 0 else SLOW, anchored=attempt % 2 == 1))
        )
        settled, progress = trusted(rows, found), True
        while progress and int(settled.sum()) < rank:
            before, apart = int(settled.sum()), _apart(rows, found, settled)
            if apart.shape[1]:
                found = independent(found + judge(rows, _refine(rows, apart, FAST)))
                settled = trusted(rows, found)
            progress = int(settled.sum()) > before
        if int(settled.sum()) == rank or (found.count == 0 and attempt + 1 == HOPELESS):
            break
    weights = rows.unwhiten @ found.weights
    return replace(found, weights=weights / weights.norm(dim=0), sure=settled)


def trusted(rows: Rows, found: Directions) -> Tensor:
    """Which directions (k,) are sure beside the others, and not by just enough zeros where others have many.

    A mixture of many can have those by itself.
    """
    sure = unambiguous(rows, found)
    if not bool(sure.any()):
        return sure
    usual, enough = found.zeros[sure].median(), len(found.weights) - 1 + SPARE_ZEROS
    return sure & ((2 * found.zeros >= usual) | (found.zeros >= 2 * enough))


def independent(found: Directions) -> Directions:
    """Of these, independent ones: the sure ones first, by their zeros."""
    kept: list[int] = []
    basis = found.weights[:, :0]
    for i in sorted(range(len(found.zeros)), key=lambda i: (-int(found.sure[i]), -int(found.zeros[i]))):
        left = found.weights[:, i] - basis @ (basis.T @ found.weights[:, i])
        left = left - basis @ (basis.T @ left)
        if float(left.norm()) > DEPENDENT and len(kept) < len(found.weights):
            kept.append(i)
            basis = torch.cat([basis, (left / left.norm())[:, None]], 1)
    return found.pick(kept)


def _outside(start: Tensor, known: Tensor) -> Tensor:
    """An orthogonal start (r, r - k) away from the k directions that are known."""
    if known.shape[1] == 0:
        return torch.linalg.qr(start).Q
    both = torch.cat([known, start], 1)[:, : len(start)]
    return torch.linalg.qr(both).Q[:, known.shape[1] :]


def _spiky(whitened: Tensor, basis: Tensor, iterations: int = 60) -> Tensor:
    """Directions within the span of an orthonormal basis (r, q) where the fourth power has a maximum: (r, q)."""
    inside = whitened @ basis
    turn = torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
    for _ in range(iterations):
        left, _, right = torch.linalg.svd(inside.T @ (inside @ turn).pow(3), full_matrices=False)
        before, turn = turn, left @ right
        if float((before - turn).abs().max()) < 1e-3:
            break
    return basis @ turn


def _refine(rows: Rows, directions: Tensor, cooling: float, *, anchored: bool = False) -> Tensor:
    """Each direction (r, k) moved to a vector with exact zeros near it.

    Args:
        anchored: its component along the start is held while the zeros are being decided, so that it cannot end at a
            vector that is orthogonal to the start, as those already found are.
    """
    return torch.cat([_refine_chunk(rows, part, cooling, anchored) for part in directions.split(CHUNK, 1)], 1)


def _refine_chunk(rows: Rows, directions: Tensor, cooling: float, anchored: bool) -> Tensor:
    """Iteratively reweighted least squares: an entry weighs 1 / (z^2 + width^2), and the width falls.

    It falls slowly as long as the zeros are being decided, then at once to the noise.
    """
    width, anchors = 1.0, directions
    while width > NARROWEST:
        width = max(NARROWEST, width * (cooling if width > DECIDED else 0.1))
        floor = rows.tolerance(directions).clamp_min(width)
        hold = anchors if anchored and width > DECIDED else directions
        directions = _descend(rows.whitened, 1 / ((rows.whitened @ directions).square() + floor.square()), hold)
    return directions


def _descend(whitened: Tensor, weights: Tensor, directions: Tensor) -> Tensor:
    """One step of inverse iteration towards the direction of the least weighted square, for each column: (r, k)."""
    normal = torch.stack([whitened.T @ (whitened * column[:, None]) for column in weights.unbind(1)])
    ridge = 1e-15 * normal.diagonal(dim1=1, dim2=2).sum(1)
    normal = normal + ridge[:, None, None] * torch.eye(len(directions), dtype=normal.dtype, device=normal.device)
    return nn.functional.normalize(torch.linalg.solve(normal, directions.T[:, :, None])[:, :, 0].T, dim=0)


def _apart(rows: Rows, found: Directions, settled: Tensor) -> Tensor:
    """Candidates (r, k): directions that are not settled, less the multiple of another one that many of their entries
    share."""
    share, factor = shared_quotients(rows, found.weights)
    candidates = [
        found.weights[:, i] - factor[i, k] * found.weights[:, k] for i, k in share.nonzero().tolist() if not settled[i]
    ]
    if not candidates:
        return found.weights[:, :0]
    return nn.functional.normalize(torch.stack(candidates, 1), dim=0)

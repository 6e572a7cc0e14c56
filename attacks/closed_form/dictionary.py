"""Complete dictionary learning: the sparse vectors of a known low-dimensional space, and how sure each one is.

Given left (m, r), a basis of the space that r unknown sparse vectors d_b in R^m span, find coefficients w_b (r,) with
d_b = left w_b:

1. *Where to look*: make the rows alike in length, whiten, and maximise the sum of fourth powers of Z0 A over orthogonal
   A. Sparse means spiky, and the fourth power likes spikes (Zhai, Yang, Liao, Wright, Ma, *Complete dictionary learning
   via l4-norm maximization over the orthogonal group*, JMLR 2020). One step is A <- polar(Z0^T Z^3).
2. *Exactly there*: the d_b are correlated, so A is only near. Iteratively reweighted least squares, for a measure that
   tends to the number of non-zeros, walks to a vector with exact zeros. What a first start missed is approached by way
   of the l1 norm, which is convex once the component along the start is held at 1.
3. *Apart*: where two d_b are much alike the walk may end at d_1 - c d_2. With d_2 at hand that shows: wherever d_1 is
   zero and d_2 is not, the quotient of the two vectors is the same number, -c.

A vector found is *sure* if its zeros determine it and nothing else does (`_sure`): a mixture of two sparse vectors has
zeros as well, where both are zero, and at an unknown rate of zeros no count tells it from a single one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.closed_form.low_rank import LowRank

ZERO = 6.0  # an entry within this many standard deviations of its noise is a zero
WIDER = 10.0  # the noise may be this much larger than predicted
SPARE_ZEROS = 8  # zeros beyond the r - 1 that any vector can be given
LEVERAGE = 0.97  # no single zero may be needed to determine the vector
SAME, ALIKE = 6, 1e-4  # so many quotients this close, relative to themselves, are no coincidence
DEPENDENT = 1e-3  # a direction with less than this outside the span of others is one of them
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
    found = _Found.none(rank, space.left)
    for attempt in range(starts):
        start = torch.randn(rank, rank, generator=generator, dtype=torch.float64).to(space.left)
        start = _outside(start, found.vectors[:, found.sure])
        found = _best(found, _sure(rows, _refine(rows, _spiky(rows.whitened, start), far=attempt > 0)))
        progress = True
        while progress and found.count < rank:
            before, apart = found.count, _apart(rows, found)
            if apart.shape[1]:
                found = _best(found, _sure(rows, _refine(rows, apart, far=False)))
            progress = found.count > before
        if found.count == rank:
            break
    weights = rows.unwhiten @ found.vectors
    return Directions(weights / weights.norm(dim=0), found.zeros, _unambiguous(rows, found))


@dataclass(frozen=True)
class _Found:
    """Directions (r, k) in the whitened space, with their zeros (k,) and verdicts (k,)."""

    vectors: Tensor
    zeros: Tensor
    sure: Tensor

    @staticmethod
    def none(rank: int, like: Tensor) -> _Found:
        return _Found(
            like.new_zeros(rank, 0), like.new_zeros(0, dtype=torch.int64), like.new_zeros(0, dtype=torch.bool)
        )

    @property
    def count(self) -> int:
        """How many are sure."""
        return int(self.sure.sum())


def _best(old: _Found, new: _Found) -> _Found:
    """Of both, independent directions: the sure ones first, by their zeros."""
    vectors = torch.cat([old.vectors, new.vectors], 1)
    zeros, sure = torch.cat([old.zeros, new.zeros]), torch.cat([old.sure, new.sure])
    kept: list[int] = []
    basis = vectors[:, :0]
    for i in sorted(range(len(zeros)), key=lambda i: (-int(sure[i]), -int(zeros[i]))):
        left = vectors[:, i] - basis @ (basis.T @ vectors[:, i])
        left = left - basis @ (basis.T @ left)
        if float(left.norm()) > DEPENDENT and len(kept) < len(vectors):
            kept.append(i)
            basis = torch.cat([basis, (left / left.norm())[:, None]], 1)
    return _Found(vectors[:, kept], zeros[kept], sure[kept])


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


def _refine(rows: Rows, directions: Tensor, *, far: bool) -> Tensor:
    """Each direction (r, k) moved to a vector with exact zeros near it; `far`: by way of the l1 norm."""
    return torch.cat([_refine_chunk(rows, part, far) for part in directions.split(CHUNK, 1)], 1)


def _refine_chunk(rows: Rows, directions: Tensor, far: bool) -> Tensor:
    anchor = directions
    for _ in range(15 if far else 0):
        z = (rows.whitened @ directions).abs()
        directions = _weighted(rows.whitened, 1 / (z + 1e-3 * z.mean(0)), anchor)
    for iteration in range(40):
        z = rows.whitened @ directions
        width = torch.maximum(0.7**iteration * z.square().mean(0).sqrt(), rows.tolerance(directions))
        before, directions = directions, _weighted(rows.whitened, 1 / (z.square() + width.square()), directions)
        if iteration > 8 and bool(((before * directions).sum(0).abs() > 1 - 1e-14).all()):
            break
    return directions


def _weighted(whitened: Tensor, weights: Tensor, anchors: Tensor) -> Tensor:
    """For each column, the direction of least weighted square whose component along the anchor is given: (r, k)."""
    normal = torch.stack([whitened.T @ (whitened * column[:, None]) for column in weights.unbind(1)])
    moved = torch.linalg.solve(normal, anchors.T[:, :, None])[:, :, 0].T
    return moved / moved.norm(dim=0)


def _apart(rows: Rows, found: _Found) -> Tensor:
    """Candidates (r, k): directions that are not sure, less the multiple of another one that many of their entries
    share."""
    share, factor = _shared_quotients(rows, found.vectors)
    candidates = [
        found.vectors[:, i] - factor[i, k] * found.vectors[:, k]
        for i, k in share.nonzero().tolist()
        if not found.sure[i]
    ]
    if not candidates:
        return found.vectors[:, :0]
    return nn.functional.normalize(torch.stack(candidates, 1), dim=0)


def _shared_quotients(rows: Rows, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Whether vector i is the same multiple of vector k in many entries, and which multiple: (k, k) each."""
    z = rows.whitened @ vectors
    zero = z.abs() <= ZERO * rows.tolerance(vectors)
    share = torch.zeros(z.shape[1], z.shape[1], dtype=torch.bool, device=z.device)
    factor = torch.zeros_like(share, dtype=z.dtype)
    if len(z) < SAME:
        return share, factor
    for i in range(z.shape[1]):
        quotient = (z[:, i : i + 1] / z).masked_fill(zero | zero[:, i : i + 1], torch.inf)
        quotient[:, i] = torch.inf
        quotient = quotient.sort(0).values
        first, last = quotient[: len(z) - SAME + 1], quotient[SAME - 1 :]
        narrowest, at = ((last - first) / (0.5 * (last + first)).abs()).nan_to_num(torch.inf).min(0)
        share[i] = narrowest < ALIKE
        factor[i] = quotient.gather(0, at[None] + SAME // 2)[0]
    return share, factor


def _unambiguous(rows: Rows, found: _Found) -> Tensor:
    """Which of the sure directions (k,) remain so beside the others.

    If all deltas are multiples of one vector on their supports, as with two classes and a single hidden layer of ReLU,
    differences of two are as sparse as each is, and no zeros tell them apart.
    """
    share, _ = _shared_quotients(rows, found.vectors)
    both = share & found.sure & found.sure[:, None]
    return found.sure & ~both.any(0) & ~both.any(1)


def _sure(rows: Rows, directions: Tensor) -> _Found:
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
    return _Found(
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

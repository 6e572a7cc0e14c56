"""SPEAR: the zeros of a batch's deltas, found by chance. Dimitrov, Baader, Müller, Vechev, *SPEAR: Exact gradient
inversion of batches in federated learning*, NeurIPS 2024 (arXiv 2403.03945).

Of the first layer's gradient `D^T X` the columns of D^T are `left @ Q`, with left (m, B) known and Q (B, B) not, and
they are sparse. Where B - 1 rows of left are zero in one delta d_b, that delta's coefficients are what these
rows leave free. So rows are drawn at random, B - 1 at a time; a vector that they leave free is kept if it has far more
zeros than they gave it; and of those kept the sparsest that are independent are the answer. Of rows
that are zero in a delta at a rate z about `z^(1 - B)` draws are needed for it: batches are small, or most units silent.

Kept as the baseline that it is. `sparse_dictionary` walks to the zeros instead of drawing them, so that its batches may
be larger. From the paper's algorithm two things differ: which vectors are sure is told by how their zeros hang together
(`sparsity`), which serves dropout's zeros too, in place of the share of the zeros that ReLU explains; and so a set of
vectors is not searched for a better one by exchanging some.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import register
from attacks.closed_form.dictionary import independent, trusted
from attacks.closed_form.low_rank import LowRank
from attacks.closed_form.sparsity import SPARE_ZEROS, Directions, Rows, judge
from attacks.closed_form.zeros import ByZeros

AT_ONCE = 2048  # draws
NEARLY = 1e-3  # an entry of a drawn vector that may be a zero, where a typical one is 1: few rows, much rounding
SAME = 1e-3  # what the cosine of two draws of one vector may lack of 1


@register("spear")
@dataclass(kw_only=True, eq=False)
class Spear(ByZeros):
    """Small batches through a linear first layer, by units drawn at random until those drawn are zero in one delta.

    Args:
        samples: draws at most; a tenth of them if none of these has shown anything.
    """

    paper: ClassVar[str] = "Dimitrov et al., NeurIPS 2024 (arXiv 2403.03945)"
    exploits: ClassVar[str] = "a linear first layer with ReLU or dropout behind it; small batches"
    under_dropout: ClassVar[str] = "better: dropout makes more of the zeros that it goes by"

    strength: ClassVar[int] = 10

    samples: int = 1_000_000

    def __post_init__(self) -> None:
        self._whole("samples")

    def directions(self, space: LowRank, generator: torch.Generator) -> Directions:
        rows = Rows(space)
        found = judge(rows, torch.zeros(space.rank, 0).to(space.left))
        sure, hopeful = found.sure, False
        rounds = -(-self.samples // AT_ONCE) if space.rank > 1 else 1
        for done in range(rounds):
            if 10 * done >= rounds and not hopeful:
                break
            drawn = _outside(_sparse(rows.whitened, _drawn(rows.whitened, generator)), found.weights[:, sure])
            if drawn.shape[1] == 0:
                continue
            hopeful = True
            found = independent(found + judge(rows, drawn))
            sure = trusted(rows, found)
            if int(sure.sum()) == space.rank:
                break
        weights = rows.unwhiten @ found.weights
        return replace(found, weights=weights / weights.norm(dim=0), sure=sure)


def _drawn(whitened: Tensor, generator: torch.Generator) -> Tensor:
    """What r - 1 rows of (m, r), drawn at random, leave free: (r, k), a column a draw."""
    count, rank = whitened.shape
    if rank == 1:
        return whitened.new_ones(1, 1)
    chosen = torch.randint(count, (AT_ONCE, rank - 1), generator=generator)  # one drawn twice leaves too much
    rows = whitened[chosen.to(whitened.device)]
    solved, fault = torch.linalg.solve_ex(rows[:, :, 1:], -rows[:, :, :1])  # the first coefficient is 1
    free = torch.cat([torch.ones_like(solved[:, :1, 0]), solved[:, :, 0]], 1)[fault == 0]
    return torch.nn.functional.normalize(free[free.isfinite().all(1)], dim=1).T


def _sparse(whitened: Tensor, drawn: Tensor) -> Tensor:
    """Those (r, k) that have more zeros than any vector can be given."""
    zeros = ((whitened @ drawn).abs() <= NEARLY).sum(0)
    order = zeros.argsort(descending=True, stable=True)
    return drawn[:, order[zeros[order] >= len(drawn) - 1 + SPARE_ZEROS]]


def _outside(drawn: Tensor, known: Tensor) -> Tensor:
    """Those (r, k) that are not among the known ones, nor twice among themselves: the first of each."""
    kept = known
    for column in drawn.T:
        if kept.shape[1] == 0 or float((column @ kept).abs().max()) < 1 - SAME:
            kept = torch.cat([kept, column[:, None]], 1)
    return kept[:, known.shape[1] :]

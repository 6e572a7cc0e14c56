"""Who beats whom: ranks from intervals, where what cannot be told apart ties, and the strongest attack."""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl

from fedsim.reporting.leaderboard.columns import DEFENSE, GROUP

Span = tuple[float | None, float | None]
"""An interval, low and high; an end that is not known is None."""


def ranks(spans: Sequence[Span]) -> list[tuple[int | None, bool]]:
    """Rank and whether it is a tie, for each of the intervals; the highest values come first.

    A rank is one more than the number of intervals that lie wholly above; two that overlap tie. Something without an
    interval (one image) is told apart from none. Nobody is first of one: a single interval has no rank.
    """
    if len(spans) == 1:
        return [(None, False)]
    ends = [(-math.inf if low is None else low, math.inf if high is None else high) for low, high in spans]
    return [
        (
            1 + sum(other > high for other, _ in ends),
            any(at != own and a <= high and low <= b for at, (a, b) in enumerate(ends)),
        )
        for own, (low, high) in enumerate(ends)
    ]


def ranked(board: pl.DataFrame) -> pl.DataFrame:
    """A board with `rank` and `tied`: of attacks among those of their group; oracles and floors have no rank."""
    places: list[int | None] = [None] * len(board)
    tied = [False] * len(board)
    for _, group in _rivals(board.with_row_index("at")).group_by(GROUP):
        for at, found in zip(group["at"], ranks(group.select("psnr_low", "psnr_high").rows())):
            places[at], tied[at] = found
    return board.with_columns(rank=pl.Series(places, dtype=pl.Int64), tied=pl.Series(tied, dtype=pl.Boolean))


def strongest(board: pl.DataFrame, *, among: pl.Expr | None = None) -> pl.DataFrame:
    """The strongest attack in each setting under each defense; no oracle, no floor.

    It is chosen on development victims where there are any, else on the very victims that it is reported on
    (`chosen_psnr` is then null), by the median PSNR over all images that were attacked.

    Args:
        among: of which rows; all if None.
    """
    rivals = _rivals(board) if among is None else _rivals(board).filter(among)
    by = pl.coalesce("chosen_psnr", "psnr")
    return rivals.filter(by.rank("ordinal", descending=True).over(DEFENSE) == 1)


def _rivals(board: pl.DataFrame) -> pl.DataFrame:
    """What can win: attacks that are given no more than a server has, and that answered."""
    return board.filter((pl.col("role") == "attack") & pl.col("psnr").is_not_null())

"""The four attackers by whom a defense is judged, each by its strongest attack: the median over all images attacked.

Who does not take the defense into account, who does, the oracle that is told what the client drew (masks and the like:
of noise that is one number an entry there is none), and the guess that never looks at the update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from fedsim.reporting.leaderboard import DEFENSE, Row, rows_of, strongest
from fedsim.reporting.naming import has_oracle
from fedsim.reporting.verdicts import Verdict, rebuilds_undefended


@dataclass(frozen=True)
class Attackers:
    """Rows of the board, None where nobody has answered.

    Args:
        naive: the strongest that does not take the defense into account; of the undefended client, of all.
        told: the strongest that does; None of the undefended client, of which there is nothing to know.
        guess: the best median PSNR of a guess.
        naive_able: the strongest of its kind that rebuilds the undefended client, or was not tried on it: the defense
            may have stopped it.
        told_able: likewise.
    """

    naive: Row | None
    told: Row | None
    oracle: Row | None
    guess: float | None
    naive_able: Row | None = None
    told_able: Row | None = None


def same_defense(verdict: Verdict) -> pl.Expr:
    """The rows of a board, or of labelled results, that a verdict is about."""
    best: Mapping[str, object] = verdict.best
    return pl.all_horizontal(pl.col(key).eq_missing(pl.lit(best[key])) for key in DEFENSE)


def attackers(board: pl.DataFrame, verdict: Verdict) -> Attackers:
    """Of one defense in one setting of the board."""
    here = board.filter(same_defense(verdict))
    answered = here.filter(pl.col("answered") > 0)
    oracles = answered.filter(pl.col("role") == "oracle").sort("psnr", nulls_last=True)
    guess = here.filter(pl.col("role") == "floor")["psnr"].max()
    able = answered.filter(
        pl.Series([rebuilds_undefended(board, row) is not False for row in rows_of(answered)], dtype=pl.Boolean)
    )
    naive = None if verdict.baseline else ~pl.col("informed")
    told = pl.lit(value=False) if verdict.baseline else pl.col("informed")
    return Attackers(
        naive=_best(answered, naive),
        told=_best(answered, told),
        naive_able=_best(able, naive),
        told_able=_best(able, told),
        oracle=next(filter(has_oracle, rows_of(oracles.tail(1))), None),
        guess=guess if isinstance(guess, float) else None,
    )


def _best(answered: pl.DataFrame, among: pl.Expr | None) -> Row | None:
    rows = rows_of(strongest(answered, among=among))
    return rows[0] if rows else None

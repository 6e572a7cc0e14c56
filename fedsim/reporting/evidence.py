"""All defenses beside one another: what each stops, of whom, and what it costs. One row for each, one table a setting.

The attackers are those of `sentences`: who does not take the defense into account, who does, and the oracle, each by
its strongest attack; chosen on the development victims or else on the victims themselves, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import polars as pl
from rich.table import Table
from rich.text import Text

from fedsim.reporting import formats as f
from fedsim.reporting.leaderboard import DEFENSE, build, labelled, strongest
from fedsim.reporting.naming import has_oracle, spoken
from fedsim.reporting.verdicts import Verdict, verdicts

GAP = 5.0
"""From how many dB on an oracle's lead over who does not know the defense is a gap to be closed."""
CLOSED = 0.7
"""The share of a gap that whoever knows the defense is expected to close."""
PRIVATE = 8.0
"""The epsilon up to which a defense is expected to let no image through."""
ALIKE = 0.6
"""The SSIM from which on an image counts as let through there."""


@dataclass(frozen=True)
class Evidence:
    """What one setting has on one defense.

    Args:
        naive, told, oracle: the board's rows of the strongest attack that does not take the defense into account,
            of the strongest that does, and of the strongest oracle; None where none has answered, and no oracle where
            nothing was drawn that it is told.
        guess: the best median PSNR of a guess that never looks at the update.
        most_alike: the SSIM of the image that came out best of any attack that is no oracle; None if not measured.
    """

    verdict: Verdict
    naive: dict[str, Any] | None
    told: dict[str, Any] | None
    oracle: dict[str, Any] | None
    guess: float | None
    most_alike: float | None

    @property
    def closed(self) -> float | None:
        """The share that whoever knows the defense closes of the oracle's lead; None where that is below `GAP`.

        Where nobody was told anything, there is no share either.
        """
        if self.oracle is None or self.told is None or self.naive is None:
            return None
        gap = self.oracle["psnr"] - self.naive["psnr"]
        return (self.told["psnr"] - self.naive["psnr"]) / gap if gap > GAP else None


def evidence(results: pl.DataFrame) -> list[Evidence]:
    """One for each defense in each setting that an attack has answered, in the order of the table."""
    board, found = build(results), []
    rows = labelled(results).filter((pl.col("role") == "attack") & ~pl.col("development"))
    for verdict in verdicts(board):
        same = pl.all_horizontal(pl.col(key).eq_missing(pl.lit(verdict.best[key])) for key in DEFENSE)
        here = board.filter(same)
        answered = here.filter(pl.col("answered") > 0)
        oracles = answered.filter(pl.col("role") == "oracle").sort("psnr", nulls_last=True)
        plain = verdict.baseline  # there is nothing to know
        found.append(
            Evidence(
                verdict=verdict,
                naive=_best(answered, None if plain else ~pl.col("informed")),
                told=None if plain else _best(answered, pl.col("informed")),
                oracle=next(filter(has_oracle, oracles.tail(1).to_dicts()), None),
                guess=here.filter(pl.col("role") == "floor")["psnr"].max(),  # type: ignore[arg-type]
                most_alike=rows.filter(same)["ssim"].max(),  # type: ignore[arg-type]
            )
        )
    return found


def markdown(found: list[Evidence]) -> str:
    """A table for each setting, and below it what a reader must know of its rows."""
    parts = []
    for setting, group in groupby(found, key=lambda one: one.verdict.setting):
        rows = list(group)
        table = [f"| {' | '.join(_HEADINGS)} |", "|---" * len(_HEADINGS) + "|"]
        table += [f"| {' | '.join(_cells(row))} |" for row in rows]
        guess = f.decibel(max((row.guess for row in rows if row.guess is not None), default=None))
        count = f.images(rows[0].verdict.best["n"])
        about = f"{count} a defense; a guess that never looks at the update has {guess} dB."
        parts.append("\n".join([f"### {setting}", "", about, "", *table, *_remarks(rows)]))
    return "\n\n".join(parts) + "\n"


_HEADINGS = [
    "defense", "ignores it", "takes it into account", "oracle", "rebuilt", "accuracy", "bytes", "epsilon", "verdict"
]  # fmt: skip


def terminal(found: list[Evidence]) -> Table:
    """The same tables for a terminal, without their remarks."""
    page = Table.grid()
    for setting, group in groupby(found, key=lambda one: one.verdict.setting):
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in _HEADINGS:
            table.add_column(heading, overflow="fold")
        for row in group:
            table.add_row(*(Text(cell.strip("`").replace("\\*", "*")) for cell in _cells(row)))
        page.add_row(Text(setting, style="bold", overflow="fold"))
        page.add_row(table)
        page.add_row("")
    return page


def _best(rows: pl.DataFrame, among: pl.Expr | None) -> dict[str, Any] | None:
    found = strongest(rows, among=among).to_dicts()
    return found[0] if found else None


def _cells(row: Evidence) -> list[str]:
    verdict = row.verdict
    best = verdict.best
    accuracy = f.accuracy(best["utility"], best["utility_low"], best["utility_high"])
    if verdict.loss is not None and not verdict.baseline:
        accuracy += f" (-{f.points(verdict.loss, verdict.slack)})".replace("--", "+")
    rebuilt = f"{verdict.rebuilt} of {best['n']}"
    return [
        f"`{verdict.defense}`",
        *(_scored(one) for one in (row.naive, row.told, row.oracle)),
        rebuilt,
        accuracy,
        f.times(best["bytes_relative"]),
        "" if best["epsilon"] is None else f.epsilon(best["epsilon"]),
        _said(verdict),
    ]


def _scored(row: dict[str, Any] | None) -> str:
    """`62.2 (60.0–64.0) IG`, with a star where most answers stopped at their budget of iterations."""
    if row is None:
        return ""
    star = "\\*" if (row["at_budget"] or 0.0) >= 0.5 else ""
    ends = f.interval(row["psnr_low"], row["psnr_high"], 1)
    name = spoken(row["attack"])
    return f"{f.decibel(row['psnr'])}{star} ({ends}) {name}" if ends else f"{f.decibel(row['psnr'])}{star} {name}"


def _said(verdict: Verdict) -> str:
    return "undefended" if verdict.baseline else verdict.in_words


def _remarks(rows: list[Evidence]) -> Iterator[str]:
    remarks = [remark for row in rows for remark in (*_gap(row), *_private(row))]
    if remarks:
        yield ""
        yield from (f"- {remark}" for remark in remarks)


def _gap(row: Evidence) -> Iterator[str]:
    if row.closed is None or row.closed >= CLOSED:
        return
    assert row.told is not None
    assert row.oracle is not None
    why = f", which stopped at its budget in {f.percent(row.told['at_budget'])}," if row.told["at_budget"] else ""
    share = f.percent(max(row.closed, 0.0))
    yield (
        f"`{row.verdict.defense}`: of what the oracle is ahead, {spoken(row.told['attack'])}{why} closes {share}"
        f" ({f.decibel(row.told['psnr'])} dB of {f.decibel(row.oracle['psnr'])})."
    )


def _private(row: Evidence) -> Iterator[str]:
    epsilon = row.verdict.best["epsilon"]
    if epsilon is None or epsilon > PRIVATE or row.most_alike is None:
        return
    if row.most_alike >= ALIKE:
        yield (
            f"`{row.verdict.defense}`: epsilon is {f.epsilon(epsilon)}, and all the same an image came out with an "
            f"SSIM of {f.number(row.most_alike, 2)}."
        )

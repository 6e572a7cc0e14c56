"""All defenses beside one another: what each stops, of whom, and what it costs. One row for each, one table a setting.

The attackers are those of `attackers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import polars as pl
from rich.table import Table
from rich.text import Text

from fedsim.reporting import formats as f
from fedsim.reporting.attackers import Attackers, attackers, same_defense
from fedsim.reporting.leaderboard import Row, build, labelled
from fedsim.reporting.naming import spoken
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
        most_alike: the SSIM of the image that came out best of any attack that is no oracle; None if not measured.
    """

    verdict: Verdict
    by: Attackers
    most_alike: float | None

    @property
    def closed(self) -> float | None:
        """The share that whoever knows the defense closes of the oracle's lead; None where that is below `GAP`.

        Where nobody was told anything, there is no share either.
        """
        naive, told, oracle = self.by.naive, self.by.told, self.by.oracle
        if oracle is None or told is None or naive is None:
            return None
        gap = oracle["psnr"] - naive["psnr"]
        return (told["psnr"] - naive["psnr"]) / gap if gap > GAP else None


def evidence(results: pl.DataFrame) -> list[Evidence]:
    """One for each defense in each setting that an attack has answered, in the order of the table."""
    board = build(results)
    rows = labelled(results).filter((pl.col("role") == "attack") & ~pl.col("development"))
    return [
        Evidence(
            verdict=verdict,
            by=attackers(board, verdict),
            most_alike=rows.filter(same_defense(verdict))["ssim"].max(),  # type: ignore[arg-type]
        )
        for verdict in verdicts(board)
    ]


def markdown(found: list[Evidence]) -> str:
    """A table for each setting, and below it what a reader must know of its rows."""
    parts = []
    for setting, group in groupby(found, key=lambda one: one.verdict.setting):
        rows = list(group)
        headings, cells = _table(rows)
        table = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
        for name, *others in cells:
            escaped = " | ".join(others).replace("*", "\\*")
            table.append(f"| `{name}` | {escaped} |")
        guesses = [row.by.guess for row in rows if row.by.guess is not None]
        about = f"{f.images(rows[0].verdict.best['n'])} a defense"
        if guesses:
            about += f"; a guess that never looks at the update has at most {f.decibel(max(guesses))} dB"
        parts.append("\n".join([f"### {setting}", "", f"{about}.", "", *table, *_remarks(rows)]))
    return "\n\n".join(parts) + "\n"


def terminal(found: list[Evidence]) -> Table:
    """The same tables for a terminal, without their remarks."""
    page = Table.grid()
    if not found:
        page.add_row(Text("There are no results yet.", style="italic"))
        return page
    for setting, group in groupby(found, key=lambda one: one.verdict.setting):
        table = Table(box=None, pad_edge=False, header_style="dim")
        headings, cells = _table(list(group))
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))
        page.add_row(Text(setting, style="bold", overflow="fold"))
        page.add_row(table)
        page.add_row("")
    page.add_row(Text(_LEGEND, style="dim"))
    return page


_LEGEND = (
    "Median PSNR in dB of the strongest attack: that ignores the defense, takes it into account, or is an oracle.\n"
    "* at least half of its answers stopped at their budget of iterations: more may come out.\n"
    "rebuilt: images, by the strongest attack that is no oracle. accuracy: in brackets what the defense changes.\n"
    "bytes: of an update, over those of an undefended client."
)


def _table(rows: list[Evidence]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, without the columns in which there is nothing."""
    lines = [_cells(row) for row in rows]
    shown = [heading for heading in lines[0] if any(line[heading] for line in lines)]
    return shown, [[line[heading] for heading in shown] for line in lines]


def _cells(row: Evidence) -> dict[str, str]:
    verdict = row.verdict
    best = verdict.best
    accuracy = ""
    if best["utility"] is not None:
        accuracy = f.accuracy(best["utility"], best["utility_low"], best["utility_high"])
    if verdict.loss is not None and not verdict.baseline:
        gain = f.points(-verdict.loss, verdict.slack)
        accuracy += f" ({gain if gain.startswith('-') else f'+{gain}'})"
    return {
        "defense": verdict.defense,
        "ignores it": _scored(row.by.naive),
        "takes it into account": _scored(row.by.told),
        "oracle": _scored(row.by.oracle),
        "rebuilt": f"{verdict.rebuilt} of {verdict.most['n']}",
        "accuracy": accuracy,
        "bytes": "" if best["bytes_relative"] is None else f.times(best["bytes_relative"]),
        "epsilon": "" if best["epsilon"] is None else f.spent(best["epsilon"], best["epsilon_prv"]),
        "verdict": "undefended" if verdict.baseline else verdict.in_words,
    }


def _scored(row: Row | None) -> str:
    """`62.2 (60.0–64.0) IG`, with a star where most answers stopped at their budget of iterations."""
    if row is None:
        return ""
    star = "*" if (row["at_budget"] or 0.0) >= 0.5 else ""
    ends = f.interval(row["psnr_low"], row["psnr_high"], 1)
    name = spoken(row["attack"])
    return f"{f.decibel(row['psnr'])}{star} ({ends}) {name}" if ends else f"{f.decibel(row['psnr'])}{star} {name}"


def _remarks(rows: list[Evidence]) -> Iterator[str]:
    remarks = [remark for row in rows for remark in (*_gap(row), *_private(row))]
    if remarks:
        yield ""
        yield from (f"- {remark}" for remark in remarks)


def _gap(row: Evidence) -> Iterator[str]:
    if row.closed is None or row.closed >= CLOSED:
        return
    told, oracle = row.by.told, row.by.oracle
    assert told is not None
    assert oracle is not None
    why = f", which stopped at its budget in {f.percent(told['at_budget'])}," if told["at_budget"] else ""
    share = f.percent(max(row.closed, 0.0))
    yield (
        f"`{row.verdict.defense}`: of what the oracle is ahead, {spoken(told['attack'])}{why} closes {share}"
        f" ({f.decibel(told['psnr'])} dB of {f.decibel(oracle['psnr'])})."
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

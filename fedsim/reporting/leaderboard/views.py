"""The leaderboard as it is shown: in a terminal, as a page, as JSON. What it holds is made by `leaderboard.build`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedsim.reporting import formats as f
from fedsim.reporting.leaderboard import DEFENSE, Row, rows_of
from fedsim.reporting.pages import environment
from fedsim.scoring import intervals
from fedsim.version import __version__


def terminal(board: pl.DataFrame) -> Table:
    """The leaderboard for a terminal. 100 columns hold it all; a narrower one does without some scores."""
    page = Table.grid(padding=(0, 0))
    if board.is_empty():
        page.add_row(Text("The leaderboard is empty: there are no results yet.", style="italic"))
        return page
    board = board.with_columns(partly=pl.when(pl.col("answered") < pl.col("n")).then(1))
    columns = [column for column in _TERMINAL if board.filter(pl.col("answered") > 0)[column.needs].is_not_null().any()]
    width = max(len(str(label)) + len(_tag(role)) for label, role in board.select("attack_label", "role").iter_rows())
    for section in sections(board):
        page.add_row(Text.assemble((section.setting, "bold"), "   ", (section.defense, "bold cyan"), overflow="fold"))
        page.add_row(_SectionTable(section, columns, min(width, 36)))
        for remark in [*section.answered(), *section.remarks(), *section.cautions()]:
            page.add_row(Padding(Text(remark, style="dim"), (0, 0, 0, 4)))
        page.add_row("")
    page.add_row(Text(_LEGEND, style="dim"))
    return page


_LEGEND = (
    "Medians over every image that was attacked; one without an answer counts with the floor's score.\n"
    "Intervals have 95 %, or are ranges where there are fewer than 6 clients; they hold for these seeds.\n"
    "A rank with = is a tie: neither interval lies wholly above the other. Without a rival there is no rank.\n"
    "knows: the letter of the threat model (Carletti et al. 2025); * an upper bound, told what no real server has.\n"
    "ident.: images that are nearer to what was made of them than up to 1,000 others are.\n"
    "oracle: was told what the client drew. floor: never looks at the update."
)


class _Column(NamedTuple):
    heading: str
    width: int
    needs: str  # the column of the board without which it is left out
    text: Callable[[Row], str]


_TERMINAL = [
    _Column("knows", 5, "letter", lambda row: f"{row['letter']}{'*' if row['beyond'] else ''}"),
    _Column("PSNR dB", 7, "attack", lambda row: f.decibel(row["psnr"])),
    _Column("interval", 11, "psnr_low", lambda row: f.interval(row["psnr_low"], row["psnr_high"], 1)),
    _Column(">19 dB", 6, "leaked_psnr", lambda row: f.percent(row["leaked_psnr"])),
    _Column("ident.", 6, "identified", lambda row: f.percent(row["identified"])),
    _Column("SSIM", 5, "ssim", lambda row: f.number(row["ssim"], 2)),
    _Column("LPIPS", 5, "lpips", lambda row: f.number(row["lpips"], 2)),
    _Column("labels", 6, "label_accuracy", lambda row: f.percent(row["label_accuracy"])),
    _Column("masks", 5, "mask_accuracy", lambda row: f.percent(row["mask_accuracy"])),
    _Column("iter.", 6, "iterations", lambda row: f.count(row["iterations"])),
    _Column("s", 6, "seconds", lambda row: f.seconds(row["seconds"])),
    _Column("answered", 8, "partly", lambda row: f"{row['answered']} of {row['n']}"),
    _Column("n", 4, "n", lambda row: f.count(row["n"])),
]


_FIRST_TO_GO = ("LPIPS", "labels", "iter.", "s", "knows", "ident.", "masks", "SSIM")
"""The columns that a narrow terminal does without, in this order."""


@dataclass(frozen=True)
class _SectionTable:
    """The table of one section, with the columns that the terminal has room for."""

    section: Section
    columns: list[_Column]
    label_width: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = list(self.columns)
        for heading in _FIRST_TO_GO:
            if 4 + self.label_width + sum(column.width + 1 for column in columns) > options.max_width:
                columns = [column for column in columns if column.heading != heading]
        table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="dim")
        table.add_column("", justify="right", min_width=3)
        table.add_column("attack", width=self.label_width, overflow="fold")
        for column in columns:
            table.add_column(column.heading, justify="right", min_width=column.width, no_wrap=True)
        for row in self.section.rows:
            if row["answered"]:
                label = Text(str(row["attack_label"])).append(_tag(str(row["role"])), style="italic")
                cells = [Text(column.text(row)) for column in columns]
                style = "" if row["role"] == "attack" else "dim"
                table.add_row(Text(f.rank_text(row["rank"], bool(row["tied"]))), label, *cells, style=style)
        yield table


def _tag(role: str) -> str:
    return "" if role == "attack" else f" {role}"


@dataclass(frozen=True)
class Section:
    """The rows of one model under one defense, best first."""

    setting: str
    defense: str
    rows: list[Row]

    def answered(self) -> list[str]:
        """Who answered for the attacks that are made of others, one line for each."""
        return [f"{row['attack_label']}: answered by {row['stages']}" for row in self.rows if row["stages"]]

    def remarks(self) -> list[str]:
        """Why attacks have no score for some images or all, one line for each reason."""
        named: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            if row["reason"] is not None:
                what = (
                    f"failed for {f.images(row['failed'])}"
                    if row["failed"]
                    else (f"not applicable to {f.images(row['not_applicable'])}")
                )
                named.setdefault((what, row["reason"]), []).append(row["attack_label"])
        return [f"{', '.join(self._briefly(names))}: {what}: {reason}" for (what, reason), names in named.items()]

    def _briefly(self, labels: list[str]) -> list[str]:
        """Labels in order; an attack that is among them whatever it was told stands there once."""
        told = {str(row["attack_label"]): str(row["attack_label"]).partition(" [")[0] for row in self.rows}
        here, all_of = Counter(told[label] for label in labels), Counter(told.values())
        return sorted({told[label] if here[told[label]] == all_of[told[label]] else label for label in labels})

    def cautions(self) -> list[str]:
        """What to mind when reading the section: ranges of few clients, attacks that stopped at their budget."""
        said = []
        few = [row for row in self.rows if row["answered"] and (row["level"] or 0) < intervals.LEVEL]
        if few:
            said.append(few_clients(few[0]["clients"], few[0]["level"]))
        stopped: dict[str, list[str]] = {}
        for row in self.rows:
            if row["at_budget"]:
                stopped.setdefault(f.percent(row["at_budget"]), []).append(row["attack_label"])
        for share, names in stopped.items():
            said.append(f"{', '.join(self._briefly(names))}: {share} stopped at the budget of iterations")
        return said


def few_clients(clients: int, level: float | None) -> str:
    """What an interval of so few clients is."""
    if level is None:
        return "one client: no interval"
    return f"ranges of {clients} clients, which cover the median with {100 * level:g} %"


def sections(board: pl.DataFrame) -> Iterator[Section]:
    for _, part in board.group_by(DEFENSE, maintain_order=True):
        yield Section(part["setting_label"][0], part["defense_label"][0], rows_of(part))


def html(board: pl.DataFrame, *, title: str = "Attack leaderboard") -> str:
    """The leaderboard as one self-contained page."""
    template = environment().get_template("leaderboard.html.j2")
    return template.render(title=title, sections=list(sections(board)), version=__version__)


def to_json(board: pl.DataFrame) -> str:
    """`{"fedsim_version", "rows": [...]}`, one object per row of the board; what does not exist is null."""
    rows = board.with_columns(pl.selectors.float().replace([float("nan"), float("inf"), float("-inf")], None))
    return json.dumps({"fedsim_version": __version__, "rows": rows.to_dicts()}, indent=1, allow_nan=False) + "\n"

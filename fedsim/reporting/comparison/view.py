"""A comparison in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.table import Table
from rich.text import Text

from fedsim.reporting import formats as f
from fedsim.reporting.comparison.differences import Comparison, Difference

_NOTE = (
    "B less A, by client on the same images: PSNR in dB, at most 100; what has no answer has the floor's score.\n"
    "Intervals have 95 %, or are ranges where there are fewer than 6 clients; p: exact sign test, corrected (Holm)."
)


def terminal(comparison: Comparison) -> Table:
    page = Table.grid()
    page.add_row(Text(f"A  {comparison.a}\nB  {comparison.b}"))
    for line in comparison.differing:
        page.add_row(Text(f"   differs in {line}", style="yellow"))
    page.add_row("")
    for (setting, defense), rows in groupby(comparison.differences, lambda each: (each.setting, each.defense)):
        page.add_row(Text.assemble((setting, "bold"), "   ", (defense, "bold cyan"), overflow="fold"))
        page.add_row(_section(list(rows)))
        page.add_row("")
    for remark in comparison.remarks:
        page.add_row(Text(remark, style="yellow"))
    page.add_row(Text(_NOTE, style="dim"))
    return page


def _section(rows: Sequence[Difference]) -> Table:
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="dim")
    table.add_column("attack", min_width=20, overflow="fold")
    for heading in ("A", "B", "B − A", "interval", "ahead", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        cells = (f.decibel(row.a), f.decibel(row.b), _signed(row.median), _span(row), f"{row.ahead} of {row.clients}")
        table.add_row(Text(row.attack), *cells, "" if row.p is None else f"{row.p:.2g}", row.in_words)
    return table


def _signed(value: float) -> str:
    return f"{value:+.1f}" if abs(value) >= 0.05 else "0.0"


def _span(row: Difference) -> str:
    return "" if row.low is None or row.high is None else f"{_signed(row.low)} to {_signed(row.high)}"

"""The runs of a folder, a line each: how far each is, of what it consists, when it was, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl
from rich.table import Table
from rich.text import Text

from fedsim.errors import BadInput
from fedsim.reporting.formats import shortened
from fedsim.reporting.leaderboard import build
from fedsim.reporting.verdicts import verdicts
from fedsim.runs import notes, reading
from fedsim.runs.directory import MARKER, RunDirectory

_DEEPEST = 2
"""Folders in folders, at most, in which runs are looked for."""


@dataclass(frozen=True)
class Line:
    """A run in short.

    Args:
        state: `complete`, what is missing, or why it cannot be read.
        trained, attacked, cells: how many federations are trained, how many of these are attacked to the end, and how
            many there are in all; None where that is not known.
        date: when it was last written to.
        verdict: what came of it, in short; empty where nothing did yet.
    """

    path: Path
    state: str
    trained: int | None
    attacked: int | None
    cells: int | None
    date: datetime
    verdict: str
    said: str


def runs(folder: Path) -> list[Line]:
    """The runs below a folder, or the run that it is; the latest first.

    Raises:
        BadInput: there is no such folder.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; `fedsim run` writes into runs/ unless it is told --out")
    return sorted(map(_line, _found(folder, _DEEPEST)), key=lambda line: line.date, reverse=True)


def _found(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / MARKER).is_file():
        yield folder
    elif depth:
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.is_symlink():
                yield from _found(inner, depth - 1)


def _line(path: Path) -> Line:
    directory = RunDirectory(path)
    files = [file for file in (path / MARKER, directory.results) if file.exists()]
    date = datetime.fromtimestamp(max(file.stat().st_mtime for file in files)).astimezone()
    try:
        said = notes.read(path).line
        results = reading.results(directory)
    except BadInput as error:
        return Line(path, _in_short(path, error), None, None, None, date, "", "")
    missing = reading.missing(directory)
    counts: tuple[int | None, int | None, int] = (missing.trained, missing.attacked, missing.cells)
    if missing.unknown:
        counts = (None, None, results["cell"].n_unique())
    return Line(path, _state(missing, results), *counts, date, _verdict(results), said)


def _in_short(path: Path, error: BadInput) -> str:
    return shortened(str(error).removeprefix(f"{path}/").removeprefix(f"{path}: "), 100)


def _state(missing: reading.Missing, results: pl.DataFrame) -> str:
    if missing.unknown:
        return shortened(missing.unknown, 100)
    if missing:
        jobs = sum(count for _, count in missing.unfinished)
        todo = (("federation", len(missing.untrained)), ("attack job", jobs))
        return "to do: " + ", ".join(f"{count} {what}{'s' if count > 1 else ''}" for what, count in todo if count)
    failed = int((results["status"] == "failed").sum())
    return f"complete, {failed} of {len(results)} rows failed" if failed else "complete"


def _verdict(results: pl.DataFrame) -> str:
    """`5 of 6 leak, 1 recommended`: of the defenses, the lack of one included, in all settings."""
    judged = verdicts(build(results))
    if not judged:
        return ""
    leaking = sum(not verdict.held for verdict in judged)
    recommended = sum(verdict.recommended for verdict in judged)
    return f"{leaking} of {len(judged)} leak, {recommended or 'none'} recommended"


def terminal(lines: list[Line], folder: Path) -> Table:
    """The lines for a terminal."""
    page = Table.grid(expand=True)
    if not lines:
        page.add_row(Text(f"{folder}: no runs", style="italic"))
        return page
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="dim")
    going = any(line.attacked not in (None, line.cells) for line in lines)
    numbers = ("trained", "attacked", "cells") if going else ("cells",)
    for heading in ("run", "state", *numbers, "date", "verdict"):
        number = heading in numbers
        table.add_column(heading, overflow="fold", justify="right" if number else "left", no_wrap=heading == "date")
    for line in lines:
        counts = ["" if count is None else str(count) for count in (getattr(line, name) for name in numbers)]
        name = Text(str(folder if line.path == folder else line.path.relative_to(folder)))
        name.append(f"\n{line.said}" if line.said else "", style="dim")
        table.add_row(name, Text(line.state), *counts, line.date.strftime("%Y-%m-%d %H:%M"), line.verdict)
    page.add_row(table)
    return page

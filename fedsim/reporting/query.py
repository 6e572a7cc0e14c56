"""Runs as data: one table of several runs, and SQL on it by DuckDB.

SQL sees the table `results` and nothing else: the database is in memory, in a process of its own that has bounded
memory and time (`fedsim.reporting.query_process`), and before the query is read the connection gives up files,
extensions, Python's variables and the right to take any of that back. So a query that somebody else wrote can be run.
"""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
from polars.exceptions import PolarsError
from rich.table import Table
from rich.text import Text

from fedsim.errors import BadInput
from fedsim.reporting import formats as f
from fedsim.reporting.query_process import ANSWERED, REFUSED

MEMORY = 2 * 2**30
"""Bytes that a query may take besides the table."""
SECONDS = 60


def together(tables: Mapping[Path, pl.DataFrame]) -> pl.DataFrame:
    """The tables of several runs as one; the column `run` tells them apart.

    It holds the run's name, or the directory as it was given where two runs have the same name. A column that one
    run's version did not know is null there.
    """
    names = [name for table in tables.values() for name in table["run"].unique()]
    if len(set(names)) < len(names):
        tables = {path: table.with_columns(run=pl.lit(str(path))) for path, table in tables.items()}
    return pl.concat(tables.values(), how="diagonal_relaxed")


def sql(results: pl.DataFrame, query: str) -> pl.DataFrame:
    """Answer a query on the table `results`, in a process of its own that has so much memory and time.

    Raises:
        fedsim.errors.BadInput: DuckDB cannot answer it, it asks for something outside the table, or for too much.
    """
    stream = io.BytesIO()
    table = results.to_arrow()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    given = query.encode("utf-8", "replace")
    command = [sys.executable, "-m", "fedsim.reporting.query_process", str(MEMORY)]
    try:
        done = subprocess.run(
            command,
            input=struct.pack("<Q", len(given)) + given + stream.getvalue(),
            capture_output=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BadInput(f"--sql: interrupted after {SECONDS} s; ask for less") from None
    kind, content = done.stdout[:1], done.stdout[1:]
    if kind == REFUSED:
        raise BadInput(f"--sql: {_one_line(content.decode('utf-8', 'replace'))}")
    if kind != ANSWERED:  # killed, or out of memory where nobody can say so
        raise BadInput(f"--sql: interrupted: it needs more than {MEMORY // 2**30} GiB of memory; ask for less")
    try:
        with pa.ipc.open_stream(content) as reader:
            frame = pl.DataFrame(pl.from_arrow(reader.read_all()))
        return frame.with_columns(pl.col(name).cast(_plain(kind)) for name, kind in _decimals(frame))
    except (PolarsError, pa.ArrowException) as error:
        raise BadInput(f"--sql: {_one_line(error)}") from None


def _decimals(frame: pl.DataFrame) -> Sequence[tuple[str, pl.Decimal]]:
    return [(name, kind) for name, kind in frame.schema.items() if isinstance(kind, pl.Decimal)]


def _plain(kind: pl.Decimal) -> type[pl.DataType]:
    """DuckDB sums integers as decimals; a reader expects the number."""
    return pl.Int64 if kind.scale == 0 else pl.Float64


def _one_line(error: object) -> str:
    """The message without the excerpt of the query, or the advice, that follows it."""
    said = re.split(r"\n\nLINE |\n?Possible solutions|\nDatabase is launched|\s*See https?:", str(error))[0]
    return " ".join(said.split())[:240]


def to_csv(frame: pl.DataFrame) -> str:
    try:
        return frame.write_csv()
    except PolarsError as error:
        raise BadInput(f"--csv: {_one_line(error)}; --json can hold it") from None


def to_json(frame: pl.DataFrame) -> str:
    """A list of objects, one for each row; what does not exist or is not finite is null."""
    return frame.write_json() + "\n"


PREVIEW_ROWS = 40
PREVIEW_COLUMNS = 10


def terminal(frame: pl.DataFrame) -> Table:
    """The first rows for a terminal. A table of many columns is laid on its side: a line for each column."""
    many = frame.width > PREVIEW_COLUMNS
    page = Table.grid(expand=many)
    page.add_row(_on_its_side(frame.head(3)) if many else _upright(frame.head(PREVIEW_ROWS)))
    shown = min(frame.height, 3 if many else PREVIEW_ROWS)
    some = f"; the first {shown} shown, --csv and --json write all" if shown < frame.height else ""
    page.add_row(Text(f"{_plural(frame.height, 'row')}, {_plural(frame.width, 'column')}{some}", style="dim"))
    return page


def _upright(frame: pl.DataFrame) -> Table:
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="dim")
    for name, kind in frame.schema.items():
        table.add_column(Text(name), justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in frame.iter_rows():
        table.add_row(*map(_cell, row))
    return table


def _on_its_side(frame: pl.DataFrame) -> Table:
    table = Table(expand=True, box=None, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="dim")
    table.add_column("column", no_wrap=True, min_width=max(map(len, frame.columns)))
    table.add_column("type", style="dim", no_wrap=True, min_width=7)
    for number in range(1, frame.height + 1):
        table.add_column(f"row {number}", no_wrap=True, overflow="ellipsis", ratio=1)
    for column in frame:
        table.add_row(Text(column.name), str(column.dtype), *map(_cell, column))
    return table


def _cell(value: object) -> Text:
    if value is None:
        return Text(f.NONE, style="dim")
    if isinstance(value, pl.Series):  # a list of the row
        value = value.to_list()
    return Text(f"{value:.6g}" if isinstance(value, float) else str(value))


def _plural(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

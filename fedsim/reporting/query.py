"""Runs as data: one table of several runs, and SQL on it by DuckDB.

SQL sees the table `results` and nothing else: the database is in memory, and before the query is read the connection
gives up files, extensions, Python's variables and the right to take any of that back. So a query that somebody else
wrote can be run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import polars as pl
from polars.exceptions import PolarsError
from rich.table import Table
from rich.text import Text

from fedsim.errors import BadInput
from fedsim.reporting import formats as f

TABLE = "results"
_SEALED = (
    "SET temp_directory = ''",  # a large query fails for memory instead of writing beside the user's files
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


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
    """Answer a query on the table `results`.

    Raises:
        fedsim.errors.BadInput: DuckDB cannot answer it, or it asks for something outside the table.
    """
    with duckdb.connect(":memory:", config={"python_enable_replacements": "false"}) as connection:
        connection.register(TABLE, results.to_arrow())
        for setting in _SEALED:
            connection.sql(setting)
        try:
            answer = connection.sql(query)
            if answer is None:
                raise BadInput(f"--sql: no answer; it takes a query such as: select attack, psnr from {TABLE}")
            frame = pl.DataFrame(pl.from_arrow(answer.to_arrow_table()))
            return frame.with_columns(pl.col(name).cast(_plain(kind)) for name, kind in _decimals(frame))
        except (duckdb.Error, PolarsError) as error:
            raise BadInput(f"--sql: {_one_line(error)}") from None


def _decimals(frame: pl.DataFrame) -> Sequence[tuple[str, pl.Decimal]]:
    return [(name, kind) for name, kind in frame.schema.items() if isinstance(kind, pl.Decimal)]


def _plain(kind: pl.Decimal) -> type[pl.DataType]:
    """DuckDB sums integers as decimals; a reader expects the number."""
    return pl.Int64 if kind.scale == 0 else pl.Float64


def _one_line(error: BaseException) -> str:
    """The message without the excerpt of the query that follows it."""
    return " ".join(str(error).split("\n\nLINE ")[0].split())


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
    return Text(f"{value:.6g}" if isinstance(value, float) else str(value))


def _plural(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

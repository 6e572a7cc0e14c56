"""A run for other programs: its rows for SQL, spreadsheets and notebooks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsim.cli.shell import app, err, out
from fedsim.errors import BadInput


@app.command()
def results(
    run_directories: Annotated[list[Path], typer.Argument(help="One run directory or more.")],
    sql: Annotated[str | None, typer.Option(metavar="QUERY", help="A query; the table is called results.")] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="Write it as CSV; - prints it.")] = None,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="As JSON; - prints it.")] = None,
) -> None:
    """Look at the rows of one run or several, ask them by SQL, write them for other programs."""
    from fedsim import api
    from fedsim.reporting import query

    if csv == json_file == "-":
        raise BadInput("--csv - and --json - both print; choose one")
    frame = api.results(run_directories)
    if sql is not None:
        frame = query.sql(frame, sql)
    for target, text in ((csv, query.to_csv), (json_file, query.to_json)):
        if target is not None:
            _hand_out(target, text(frame), say=err if "-" in (csv, json_file) else out)
    if csv is None and json_file is None:
        out.print(query.terminal(frame))


def _hand_out(target: str, text: str, *, say: Console) -> None:
    """To a file, which is then named, or as it is to standard output."""
    from fedsim.files import write_text

    if target == "-":
        sys.stdout.write(text)
        return
    write_text(Path(target), text)
    say.print(target, highlight=False, markup=False, soft_wrap=True)

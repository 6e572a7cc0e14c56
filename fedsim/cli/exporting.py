"""A run for other programs: rows for SQL and notebooks, figures for a paper, runs for MLflow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsim.cli.shell import RunArgument, command, err, kind, out
from fedsim.errors import BadInput


@command("results")
def results(
    run_directories: Annotated[list[Path], typer.Argument(help="One run directory or more.")],
    sql: Annotated[str | None, typer.Option(metavar="QUERY", help="A query; the table is called results.")] = None,
    csv: Annotated[
        str | None, typer.Option(metavar="FILE", callback=kind(".csv"), help="Write it as CSV; - prints it.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", callback=kind(".json"), help="As JSON; - prints it.")
    ] = None,
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
    say.print(target, highlight=False, soft_wrap=True)


@command("figures")
def figures(
    run_directory: RunArgument,
    format: Annotated[str, typer.Option(metavar="pdf|svg|png", help="What to write.")] = "pdf",
    to: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to; figures/ in the run if not given.")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="As wide as two columns (6.9 in), not one (3.3 in).")] = False,
) -> None:
    """Draw a run as static figures for a paper."""
    from fedsim.api import Run

    for drawn in Run(run_directory).figures(to, format=format, wide=wide):
        for file in drawn.files:
            out.print(str(file), highlight=False, soft_wrap=True)
        if not drawn.files:
            err.print(f"no {drawn.name}: {drawn.why_not}", highlight=False, soft_wrap=True)


@command("mlflow")
def mlflow(
    run_directory: RunArgument,
    tracking_uri: Annotated[
        str | None, typer.Option(metavar="URI", help="Where MLflow keeps its runs, e.g. sqlite:///mlflow.db.")
    ] = None,
    experiment: Annotated[str, typer.Option(metavar="NAME", help="The MLflow experiment.")] = "fedsim",
) -> None:
    """Log a run to MLflow: parameters, metrics, loss curves and pictures."""
    from fedsim.api import Run

    parent = Run(run_directory).log_to_mlflow(tracking_uri=tracking_uri, experiment=experiment)
    out.print(f"mlflow run {parent}", highlight=False, soft_wrap=True)

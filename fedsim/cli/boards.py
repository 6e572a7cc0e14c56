"""`fedsim leaderboard` and `fedsim defenses`: of runs; the public leaderboard as entries and as a site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.shell import command, err, kind, out
from fedsim.errors import BadInput


@command("leaderboard")
def leaderboard(
    run_directories: Annotated[list[Path] | None, typer.Argument(help="One run directory or more.")] = None,
    html: Annotated[Path | None, typer.Option(callback=kind(".html"), help="Also write it as an HTML page.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=kind(".json"), help="Also write it as JSON.")
    ] = None,
    submitted: Annotated[
        Path | None, typer.Option("--submit", metavar="RUN", help="Write this run's entries of the public leaderboard.")
    ] = None,
    site: Annotated[
        Path | None, typer.Option("--site", metavar="DIR", help="Build the public leaderboard as a static site.")
    ] = None,
    entries: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where entries lie; leaderboard/entries if not given.")
    ] = None,
) -> None:
    """Rank the attacks of runs together; submit a run to the public leaderboard, or build its site."""
    from fedsim.reporting.entries import DIRECTORY

    if not run_directories and submitted is None and site is None:
        raise BadInput("leaderboard: name a run directory or more, or use --submit RUN or --site DIR")
    if run_directories:
        _rank(run_directories, html, json_file)
    if submitted is not None:
        _submit(submitted, entries or DIRECTORY)
    if site is not None:
        _build(entries or DIRECTORY, site)


@command("defenses")
def defenses(
    run_directories: Annotated[list[Path], typer.Argument(help="One run directory or more.")],
    markdown: Annotated[
        Path | None, typer.Option(callback=kind(".md"), help="Write it as Markdown, with remarks, instead.")
    ] = None,
) -> None:
    """Show the defenses of runs beside one another: what each stops, of whom, and at what cost."""
    import polars as pl

    from fedsim.api import Run
    from fedsim.files import write_text
    from fedsim.reporting import evidence

    found = evidence.evidence(pl.concat([Run(path).results for path in run_directories]))
    if markdown is None:
        out.print(evidence.terminal(found))
        return
    write_text(markdown, evidence.markdown(found))
    out.print(str(markdown), highlight=False, soft_wrap=True)


def _rank(run_directories: list[Path], html: Path | None, json_file: Path | None) -> None:
    import polars as pl

    from fedsim.api import Run
    from fedsim.files import write_text
    from fedsim.reporting import leaderboard as boards
    from fedsim.reporting.leaderboard import views

    board = boards.build(pl.concat([Run(path).results for path in run_directories]))
    out.print(views.terminal(board))
    if html is not None:
        write_text(html, views.html(board))
    if json_file is not None:
        write_text(json_file, views.to_json(board))


def _submit(run_directory: Path, entries: Path) -> None:
    from fedsim.api import Run
    from fedsim.reporting.entries import submit
    from fedsim.runs.directory import RunDirectory

    run = Run(run_directory)
    directory = RunDirectory(run_directory)
    for path in submit(entries, run.results, run.pictures, directory.marker(), salt=directory.salt()):
        out.print(str(path), highlight=False, soft_wrap=True)


def _build(entries: Path, directory: Path) -> None:
    """Build the site of all good entries; exit with 1 if there were bad ones."""
    from fedsim.reporting.entries import read
    from fedsim.reporting.site import write

    collection = read(entries)
    out.print(str(write(directory, collection.entries, entries)), highlight=False, soft_wrap=True)
    for problem in collection.problems:
        err.print(problem, style="red", highlight=False, soft_wrap=True)
    if collection.problems:
        raise typer.Exit(1)

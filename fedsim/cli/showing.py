"""What came of a run: the report, the leaderboard, the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.shell import RunArgument, app, out


@app.command()
def report(
    run_directory: RunArgument,
    to: Annotated[
        Path | None, typer.Option("--html", help="Where to write it; report.html in the run if not given.")
    ] = None,
) -> None:
    """Write the defense evaluation report of a run: one self-contained HTML file."""
    from fedsim.api import Run

    out.print(str(Run(run_directory).report(to)), highlight=False, soft_wrap=True)


@app.command()
def leaderboard(
    run_directories: Annotated[list[Path], typer.Argument(help="One run directory or more.")],
    html: Annotated[Path | None, typer.Option(help="Also write it as an HTML page.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write it as JSON.")] = None,
) -> None:
    """Rank the attacks of one run, or of several together."""
    import polars as pl

    from fedsim.api import Run
    from fedsim.files import write_text
    from fedsim.reporting import leaderboard as boards

    board = boards.build(pl.concat([Run(path).results for path in run_directories]))
    out.print(boards.terminal(board))
    if html is not None:
        write_text(html, boards.html(board))
    if json_file is not None:
        write_text(json_file, boards.to_json(board))


@app.command()
def figure(
    run_directory: RunArgument,
    to: Annotated[Path, typer.Option("--png", help="Where to write the picture.")],
) -> None:
    """Draw the originals above what each attack rebuilt."""
    from fedsim.api import Run
    from fedsim.files import write_bytes
    from fedsim.reporting import figures

    done = Run(run_directory)
    write_bytes(to, figures.grid(done.results, done.pictures))
    out.print(str(to), highlight=False, soft_wrap=True)

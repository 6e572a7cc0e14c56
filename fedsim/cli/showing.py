"""What came of a run: the report, the pictures."""

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
    all_victims: Annotated[
        bool, typer.Option("--all", help="Show the pictures of every victim, not of eight.")
    ] = False,
) -> None:
    """Write the defense evaluation report of a run, finished or not: one self-contained HTML file."""
    from fedsim.api import Run

    out.print(str(Run(run_directory).report(to, all=all_victims)), highlight=False, soft_wrap=True)


@app.command("figure", hidden=True)  # what it was called before there were `figures`
@app.command()
def picture(
    run_directory: RunArgument,
    to: Annotated[Path, typer.Option("--png", help="Where to write the picture.")],
) -> None:
    """Draw the originals above what each attack rebuilt."""
    from fedsim.api import Run
    from fedsim.files import write_bytes
    from fedsim.reporting import picture_grid

    done = Run(run_directory)
    write_bytes(to, picture_grid.grid(done.results, done.pictures))
    out.print(str(to), highlight=False, soft_wrap=True)

"""What came of a run: the report, the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.shell import RunArgument, app, command, demand_results, kind, out


@command("runs")
def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where runs lie.")] = Path("runs"),
) -> None:
    """List runs: how far each is, its cells, its date, what came of it, and what you noted."""
    from fedsim.reporting import overview

    out.print(overview.terminal(overview.runs(folder), folder))


@command("note")
def note(
    run_directory: RunArgument,
    text: Annotated[str | None, typer.Argument(help="What to note, in place of what is noted; '' deletes it.")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="Give it this tag.")] = None,
    untag: Annotated[list[str] | None, typer.Option("--untag", metavar="TAG", help="Take this tag away.")] = None,
) -> None:
    """Tag a run or note something about it; `fedsim runs`, its report and its tables show that."""
    from fedsim.runs import notes

    noted = notes.write(run_directory, note=text, add=tags or (), remove=untag or ())
    out.print(noted.line or "nothing noted", highlight=False, soft_wrap=True)


@command("report")
def report(
    run_directory: RunArgument,
    to: Annotated[
        Path | None,
        typer.Option("--html", callback=kind(".html"), help="Where to write it; report.html in the run if not given."),
    ] = None,
    all_victims: Annotated[
        bool, typer.Option("--all", help="Show the pictures of every victim, not of eight.")
    ] = False,
) -> None:
    """Write the defense evaluation report of a run, finished or not: one self-contained HTML file."""
    from fedsim.api import Run

    out.print(str(Run(run_directory).report(to, all=all_victims)), highlight=False, soft_wrap=True)


@app.command("figure", hidden=True)  # what it was called before there were `figures`
@command("picture")
def picture(
    run_directory: RunArgument,
    to: Annotated[Path, typer.Option("--png", callback=kind(".png"), help="Where to write the picture.")],
) -> None:
    """Draw the originals above what each attack rebuilt."""
    from fedsim.api import Run
    from fedsim.files import write_bytes
    from fedsim.reporting import picture_grid

    done = Run(run_directory)
    demand_results(done.results, [run_directory])
    write_bytes(to, picture_grid.grid(done.results, done.pictures))
    out.print(str(to), highlight=False, soft_wrap=True)

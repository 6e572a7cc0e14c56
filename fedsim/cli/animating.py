"""`fedsim animate`: how an attack came to its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.shell import RunArgument, command, kind, out


@command("animate")
def animate(
    run_directory: RunArgument,
    job: Annotated[
        str | None, typer.Argument(help="A job's key, or its start; without it, the jobs are listed.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.gif", callback=kind(".gif"), help="Where to write it; beside the run's report."
        ),
    ] = None,
    victim: Annotated[int, typer.Option(help="Which of the job's recorded images, from 0.")] = 0,
) -> None:
    """Make a GIF of an image and a dropout mask emerging, from the snapshots of a run (engine.record)."""
    from rich.table import Table
    from rich.text import Text

    from fedsim.errors import BadInput
    from fedsim.files import write_bytes
    from fedsim.reporting import animation
    from fedsim.runs.directory import RunDirectory

    directory = RunDirectory(run_directory)
    directory.marker()
    if job is None:
        found = animation.recorded(directory)
        if not found:
            raise BadInput(f"{run_directory}: no job has snapshots; {animation.HOW}")
        listed = Table(*found[0])
        for row in found:
            listed.add_row(*(Text(str(value)) for value in row.values()))
        out.print(listed)
        return
    key = animation.job_named(directory, job)
    target = to or run_directory / f"{key}-{victim}.gif"
    write_bytes(target, animation.gif(animation.emerging(directory, key, victim)))
    out.print(str(target), highlight=False, soft_wrap=True)

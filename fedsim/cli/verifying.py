"""`fedsim verify`: repeat some victims of an entry of the leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.shell import SetOption, command, err, out


@command("verify")
def verify(
    entry: Annotated[Path, typer.Argument(help="An entry: leaderboard/entries/NAME.json.")],
    victims: Annotated[int, typer.Option(min=1, metavar="N", help="Clients to draw, of one seed.")] = 4,
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Keep the repetition's run directory here.")
    ] = None,
    overrides: SetOption = None,
    allow_factory: Annotated[
        bool, typer.Option("--allow-factory", help="Import the model's code that the entry names.")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Write the outcome into the entry.")] = False,
) -> None:
    """Repeat some victims of a leaderboard entry, and say whether its numbers agree; exit code 1 if they do not."""
    from fedsim import api
    from fedsim.reporting import verification
    from fedsim.runs.terminal import TerminalView

    try:
        finding = api.verify(
            entry,
            victims=victims,
            out=directory,
            set=overrides or [],
            allow_factory=allow_factory,
            write=write,
            view=TerminalView(err),
        )
    except KeyboardInterrupt:
        err.print("interrupted; with --out the same command goes on from there", style="yellow")
        raise typer.Exit(130) from None
    out.print(verification.terminal(finding))
    if finding.outcome != "agrees":
        raise typer.Exit(1)

"""What all commands share: the application, where it prints, and the arguments that several of them take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    suggest_commands=False,  # click does; twice is once too often
    help="Privacy attacks on federated learning: what can a server rebuild, and which defense stops it?",
)
# Paths and names are the user's: what looks like markup in them is not.
out = Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 120)
err = Console(markup=False, emoji=False, stderr=True)

ScenarioArgument = Annotated[str, typer.Argument(help="A scenario file, or the name of a bundled scenario.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. model.name=lenet.")
]
RunArgument = Annotated[Path, typer.Argument(help="A run directory.")]

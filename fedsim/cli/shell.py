"""What all commands share: the application, where it prints, and the arguments that several of them take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from click import Context
from rich.console import Console, ConsoleDimensions
from typer.core import TyperGroup

from fedsim.errors import BadInput

ORDER = {
    "Begin": ("new", "check", "list", "schema", "doctor"),
    "Run": ("train-decoder", "plan", "run", "attack", "audit"),
    "Look": ("runs", "report", "picture", "animate", "note"),
    "Compare": ("leaderboard", "defenses", "table", "compare"),
    "Hand on": ("figures", "results", "mlflow", "verify"),
}
"""The commands in the order of work, as the help lists them."""


class Commands(TyperGroup):
    """Commands in the order of work, not in that of the files in which they stand."""

    def list_commands(self, ctx: Context) -> list[str]:
        order = [name for names in ORDER.values() for name in names]
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))


def heading(command: str) -> str:
    return next(heading for heading, names in ORDER.items() if command in names)


def command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command under its heading of the help."""
    return app.command(name=name, rich_help_panel=heading(name))


app = typer.Typer(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    suggest_commands=False,  # click does; twice is once too often
    help="Privacy attacks on federated learning: what can a server rebuild, and which defense stops it?",
)
class _Paper(Console):
    """As wide as `COLUMNS` says, or the terminal; 120 columns where there is neither. Asked whenever it prints."""

    @property
    def size(self) -> ConsoleDimensions:
        columns = os.environ.get("COLUMNS", "")
        if not columns.isdecimal() and not self.is_terminal:
            return ConsoleDimensions(120, 25)
        found = super().size
        return ConsoleDimensions(int(columns), found.height) if columns.isdecimal() else found

    @size.setter
    def size(self, wanted: tuple[int, int]) -> None:
        raise NotImplementedError("it is as wide as where it prints to")


Named = TypeVar("Named", Path, str)


def kind(ending: str) -> Callable[[Named | None], Named | None]:
    """Callback of an option that names the file to write: refuses a name that says that it is of another kind."""

    def checked(value: Named | None) -> Named | None:
        if value is not None and Path(value).suffix.lower() not in ("", ending):
            raise BadInput(f"{value}: what is written there is {ending[1:].upper()}; give it a name in {ending}")
        return value

    return checked


# Paths and names are the user's: what looks like markup in them is not.
out = _Paper(markup=False, emoji=False)
err = Console(markup=False, emoji=False, stderr=True)



def _scenarios(incomplete: str) -> Iterator[str]:
    """For the completion of a word: bundled scenarios, and files and folders here."""
    from fedsim.scenario.bundled import bundled

    yield from (name for name in bundled() if name.startswith(incomplete))
    folder, _, start = incomplete.rpartition("/")
    for path in sorted(Path(folder or ("/" if incomplete.startswith("/") else ".")).glob("*")):
        if path.name.startswith(start) and (path.is_dir() or path.suffix in (".yaml", ".yml")):
            yield f"{folder}/{path.name}" if folder or incomplete.startswith("/") else path.name


ScenarioArgument = Annotated[
    str,
    typer.Argument(help="A scenario file, or the name of a bundled scenario.", autocompletion=_scenarios),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. model.name=lenet.")
]
RunArgument = Annotated[Path, typer.Argument(help="A run directory.")]


def demand_results(results: Sized, paths: Iterable[Path]) -> None:
    """Raises `BadInput` where there is nothing to draw or to tabulate yet."""
    if not len(results):
        raise BadInput(f"{', '.join(map(str, paths))}: no results yet; go on with it by `fedsim run`")

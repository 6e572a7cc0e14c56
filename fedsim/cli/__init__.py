"""The command line; thin: each command calls the Python API and prints. One file for each group of commands.

Exit codes: 0 done (`not_applicable` included), 1 some client, cell or job failed, 2 bad input, or a file that could not
be read or written, 3 `audit --fail-on-leak` found a leak, 130 interrupted, 143 and 129 ended by SIGTERM or SIGHUP.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from fedsim.cli import animating, auditing, boards, decoding, exporting, running, showing, tables, tools, verifying
from fedsim.cli.ending import orderly
from fedsim.cli.shell import app, err
from fedsim.errors import BadInput, Caution, FedsimError, on_one_line, system_refused
from fedsim.version import __version__

__all__ = [
    "animating",
    "app",
    "auditing",
    "boards",
    "decoding",
    "exporting",
    "main",
    "running",
    "showing",
    "tables",
    "tools",
    "verifying",
]


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of `fedsim`: errors that a user can cause are one line, not a traceback; so are warnings."""
    try:
        with orderly(), warnings.catch_warnings():
            warnings.simplefilter("always", Caution)
            warnings.showwarning = _say_cautions_once(warnings.showwarning)
            app()
    except FedsimError as error:
        err.print(f"fedsim: {on_one_line(error)}", style="red", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except ImportError as error:  # of a file of the user's among the attacks or defenses, where and why
        from defenses.registry import BrokenFile

        if not isinstance(error, BrokenFile):
            raise
        err.print(f"fedsim: {on_one_line(error)}", style="red", highlight=False, soft_wrap=True)
        sys.exit(BadInput.exit_code)
    except OSError as error:  # a full disk, no permission: nothing is half written, and a traceback would explain less
        err.print(f"fedsim: {system_refused(error)}", style="red", highlight=False, soft_wrap=True)
        sys.exit(BadInput.exit_code)


def _say_cautions_once(otherwise: Callable[..., None]) -> Callable[..., None]:
    """What `warnings.showwarning` is to be: each of our warnings on a line of its own, once; the others as ever."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *rest: Any, **further: Any) -> None:
        if not issubclass(category, Caution):
            otherwise(message, category, *rest, **further)
        elif str(message) not in said:
            said.add(str(message))
            err.print(f"warning: {message}", style="yellow", highlight=False, soft_wrap=True)

    return show

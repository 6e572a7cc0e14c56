"""Where the user's own Python is looked for, when a scenario names a `factory: "module:function"`, and where it runs.

The user's directories are the folder of the scenario and the working directory in which the command was started. The
processes that fedsim starts run elsewhere (see `fedsim.runs.cluster`): they are told these directories, and step into
the latter before they call a user's function, so that a relative path in it means the same file everywhere.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER_PATH = "FEDSIM_USER_PATH"
"""Environment variable of the processes that fedsim starts: the user's directories as JSON, the working one last."""

_scenario_folder: list[str] = []
_admitted: list[str] = []


def look_beside(folder: str | Path | None) -> None:
    """From now on the user's own modules are looked for in this folder as well: that of the scenario in hand."""
    _scenario_folder[:] = [] if folder is None else [str(Path(folder).absolute())]


def user_directories() -> list[str]:
    """Where the user's own modules may lie, the working directory last."""
    told = os.environ.get(USER_PATH)
    if told is not None:
        return [str(directory) for directory in json.loads(told)]
    return list(dict.fromkeys([*(folder for folder in _scenario_folder if folder != os.getcwd()), os.getcwd()]))


def told() -> dict[str, str]:
    """The environment variable that tells a process the user's directories."""
    return {USER_PATH: json.dumps(user_directories())}


@contextmanager
def telling() -> Iterator[None]:
    """For the length of the block, processes that are started learn of the user's directories."""
    before = os.environ.get(USER_PATH)
    os.environ.update(told())
    try:
        yield
    finally:
        if before is None:
            del os.environ[USER_PATH]
        else:
            os.environ[USER_PATH] = before


def admit_user_code(*further: str) -> None:
    """Put the user's directories, and further ones, last on the module path: their modules are found, ours are never
    replaced. A process that was told the user's directories steps into the working directory."""
    directories = user_directories()
    if USER_PATH in os.environ and os.path.isdir(directories[-1]):  # on another machine it may be missing
        os.chdir(directories[-1])
    for directory in _admitted:
        sys.path.remove(directory) if directory in sys.path else None
    _admitted[:] = [directory for directory in (*directories, *further) if directory not in sys.path]
    sys.path.extend(_admitted)

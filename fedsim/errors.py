"""The errors that a user can cause, and what is worth a warning. Each is one line; an error has an exit code, and
nothing is left half written."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

MOST = 300
"""Characters of a message."""


def on_one_line(message: object) -> str:
    """A message, or what an error says, on one line; a long one without its middle: what it begins with says where, and
    its end what to do. Of an error that says nothing its kind."""
    line = " ".join(str(message).split()) or type(message).__name__
    if len(line) <= MOST:
        return line
    begin, end = line[: MOST - 103].rpartition(" ")[0], line[-100:].partition(" ")[2]  # whole words
    return f"{begin or line[: MOST - 103]} … {end or line[-100:]}"


def reason_of(fault: BaseException) -> str:
    """The kind of an error that nobody foresaw, and what it says, on one line."""
    return f"{type(fault).__name__}: {on_one_line(fault)}"


class FedsimError(Exception):
    """Base of the errors that fedsim explains in one line instead of a traceback."""

    exit_code = 1


class BadInput(FedsimError):
    """The user's input cannot be used: what, where, and what would be accepted. Exit code 2."""

    exit_code = 2


def system_refused(error: OSError) -> str:
    """What the system refused, in one line: the file, and why."""
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return where + on_one_line(error.strerror or error)


class Damaged(BadInput, ValueError):
    """A file holds something else than fedsim wrote there: which, and what is wrong with it. Exit code 2."""

    def __init__(self, path: Path | str, fault: str) -> None:
        super().__init__(f"{path}: damaged: {on_one_line(fault)}")


class Caution(UserWarning):
    """The input can be used, but perhaps it is not what was meant. The command line prints it as one line."""


def caution(message: str) -> None:
    """Warn of something in the user's input: one line that says what, where, and what is done about it."""
    warnings.warn(Caution(message), stacklevel=2)


def no_file(path: Path) -> str:
    """What is said of a path at which a file is wanted and something else lies."""
    return "is a folder, not a file" if path.is_dir() else "is no ordinary file"

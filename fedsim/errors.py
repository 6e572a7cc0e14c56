"""The errors that a user can cause. Each prints as one line and has an exit code; nothing is left half written."""

from __future__ import annotations


class FedsimError(Exception):
    """Base of the errors that fedsim explains in one line instead of a traceback."""

    exit_code = 1


class BadInput(FedsimError):
    """The user's input cannot be used: what, where, and what would be accepted. Exit code 2."""

    exit_code = 2

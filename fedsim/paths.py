"""Where the user's own Python is looked for, when a scenario names a `factory: "module:function"`."""

from __future__ import annotations

import os
import sys

USER_PATH = "FEDSIM_USER_PATH"
"""Environment variable that carries the user's working directory to the processes that fedsim starts."""


def admit_user_code() -> None:
    """Put the user's working directory last on the module path: their modules are found, ours are never replaced."""
    directory = os.environ.get(USER_PATH, os.getcwd())
    if directory not in sys.path:
        sys.path.append(directory)

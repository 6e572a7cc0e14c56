"""What takes long to build and is only read, once for all processes that share a session's tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

WORKER = "PYTEST_XDIST_WORKER"
"""Set in the environment of a process that has a part of the tests."""


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """A directory that `build` filled: by the first process that wants it, while the others wait.

    Each process has a folder of its own for temporary files; it lies in one of the whole session. A build that failed,
    or whose process was killed, is begun anew by the next: what it left is deleted.
    """
    if WORKER not in os.environ:
        path = factory.mktemp(name)
        build(path)
        return path
    path = factory.getbasetemp().parent / name
    done = path.with_suffix(".done")
    with FileLock(path.with_suffix(".lock")):
        if not done.exists():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            build(path)
            done.touch()
    return path

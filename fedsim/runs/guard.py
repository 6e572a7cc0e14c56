"""While an attack runs, this process opens no file for it, starts no process, and reads nothing that a run recorded.

A guard against accidents, not against malice: Python has no walls. It hears what Python's audit events tell, so a
native reader (safetensors, pyarrow) passes it where it is called with a path. What keeps an attack from the truth is
that it is given no path; the guard turns a mistake into an error that names the file.

Let through is what torch itself needs: code, the Python installation, the system's own files, and whatever its compiler
does (a cache of programs, a C++ compiler as a process).
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import all_suffixes
from types import FrameType
from typing import Any

import torch

from fedsim.files import READ

_LISTS = ("os.listdir", "os.scandir")
_OPENS = ("open", READ, *_LISTS)
_STARTS = (
    *("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty"),
    *("os.posix_spawn", "os.spawn", "pty.spawn"),
)
_EVENTS = frozenset((*_OPENS, *_STARTS))

_CODE = tuple(all_suffixes())
_SYSTEM = ("/dev", "/proc", "/sys")
_COMPILER = ("torch._dynamo", "torch._inductor")
_IMPORTERS = ("importlib.", "pkgutil")

_strangers: set[int] | None = None
"""The threads that do not work for the attack; None while there is none."""


@contextmanager
def guarded() -> Iterator[None]:
    """Refuse files and processes to this thread, and to those that it starts, for the length of the block.

    Raises:
        RuntimeError: from within the block, where it opens a file or starts a process.
    """
    global _strangers
    _install()
    before = _strangers
    _strangers = set(sys._current_frames()) - {threading.get_ident()}  # those of Ray, which go on with their work
    try:
        yield
    finally:
        _strangers = before


@contextmanager
def lifted() -> Iterator[None]:
    """Let this thread do as it likes for the length of the block: what the attack calls back is our own."""
    mine, strangers = threading.get_ident(), _strangers
    if strangers is None or mine in strangers:
        yield
        return
    strangers.add(mine)
    try:
        yield
    finally:
        strangers.discard(mine)


@cache
def _install() -> None:
    """Once a process: an audit hook cannot be taken out again. It costs nothing while no attack runs."""
    _installation()  # found before the hook may ask for it
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _strangers is None or event not in _EVENTS or threading.get_ident() in _strangers:
        return
    if event in _STARTS:
        what = f"started a process ({arguments[0]})" if arguments else "started a process"
    elif isinstance(arguments[0], int):  # a descriptor: a file that is open already
        return
    else:
        path = os.fsdecode(os.fspath("." if arguments[0] is None else arguments[0]))
        if event != READ and (_is_code(path) or _belongs_to_all(path)):
            return
        what = f"opened {path}"
    caller = sys._getframe(1)
    if (event in _LISTS and str(caller.f_globals.get("__name__")).startswith(_IMPORTERS)) or _compiles(caller):
        return
    raise RuntimeError(f"an attack {what}; it may use only what it is given")


def _is_code(path: str) -> bool:
    """A module, or its bytecode while it is written."""
    return path.endswith(_CODE) or ".pyc." in os.path.basename(path)


def _belongs_to_all(path: str) -> bool:
    """Of the system or of the Python installation; `/proc/self/cwd` and links are what they lead to."""
    real = os.path.realpath(path)
    return (_below(real, _SYSTEM) and not _below(real, ("/dev/shm",))) or _installed(real)


def _compiles(frame: FrameType | None) -> bool:
    """Whether torch's compiler asks: it stands between the event and whatever code is not installed, an attack's."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(_COMPILER):
            return True
        file = frame.f_code.co_filename
        if not file.startswith("<") and not _installed(os.path.realpath(file)):
            return False
        frame = frame.f_back
    return False


def _installed(real: str) -> bool:
    """Whether a file is of the Python installation or its packages; fedsim's are not meant: its data are victims'."""
    everybody, ours = _installation()
    return _below(real, everybody) and not _below(real, ours)


@cache
def _installation() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where Python and its packages are installed, and where fedsim is."""
    import attacks
    import defenses

    packages = [site.getusersitepackages(), *site.getsitepackages(), os.path.dirname(os.path.dirname(torch.__file__))]
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    ours = [os.path.dirname(str(package.__file__)) for package in (attacks, defenses)]
    ours.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # fedsim, which imports this module
    return tuple(map(os.path.realpath, [*paths, *packages])), tuple(map(os.path.realpath, ours))


def _below(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(folder + os.sep) for folder in folders)

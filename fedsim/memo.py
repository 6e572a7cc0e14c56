"""What follows from fedsim's own source alone, made once and kept in the user's cache folder.

The lists and the JSON Schema are read off classes, for which PyTorch has to be imported: seconds for a line of text.
What is kept is JSON, and is made anew wherever a source file has changed, by its name, size or time; so nobody needs to
keep anything in step. Where there is no cache folder, or it cannot be written to, everything is made each time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from fedsim.version import __version__

_ROOT = Path(__file__).resolve().parents[1]


def remembered(what: str, make: Callable[[], Any]) -> Any:
    """The JSON-able value of `make`, as long as no source file changes.

    Args:
        what: names it, and its file: letters, digits and `-`.
    """
    folder = _folder()
    if folder is None:
        return make()
    path = folder / f"{what}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_bytes())
        if kept["of"] == _source():
            return kept["value"]
    value = make()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"of": _source(), "value": value}))
        temporary.replace(path)
    return value


def _folder() -> Path | None:
    """`$XDG_CACHE_HOME/fedsim`, or `~/.cache/fedsim`; None where there is no home."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given and os.path.isabs(given):
        return Path(given) / "fedsim"
    home = os.path.expanduser("~")
    return Path(home) / ".cache" / "fedsim" if os.path.isabs(home) else None


@cache
def _source() -> str:
    """A hash of the name, size and time of every source file, and of where they lie."""
    found = hashlib.sha256(f"{__version__} {_ROOT}".encode())
    for package in ("attacks", "defenses", "fedsim", "scenarios"):
        for folder, inner, names in sorted(os.walk(_ROOT / package)):
            inner[:] = [name for name in inner if name != "__pycache__"]
            for name in sorted(names):
                if name.endswith((".py", ".yaml")):
                    state = os.stat(os.path.join(folder, name))
                    found.update(f"{folder}/{name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return found.hexdigest()

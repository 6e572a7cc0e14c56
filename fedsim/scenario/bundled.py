"""The scenarios that travel with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

from fedsim.errors import BadInput


def bundled() -> dict[str, Path]:
    """The bundled scenario files by name: from the wheel, or from the checkout of an editable install.

    They lie in the package beside this one; a user's own `scenarios` in the working directory does not hide them.
    """
    return {path.stem: path for path in sorted(Path(__file__).resolve().parents[2].glob("scenarios/*.yaml"))}


def find(path_or_name: str | Path) -> Path:
    """The file that a path or the name of a bundled scenario means. Raises BadInput, naming the nearest."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    known = bundled()
    if str(path_or_name) in known:
        return known[str(path_or_name)]
    close = difflib.get_close_matches(path.stem, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    what = "is a directory, not a scenario file" if path.is_dir() else "no such file"
    raise BadInput(f"{path_or_name}: {what}, nor a bundled scenario of this name{hint} (bundled: {', '.join(known)})")

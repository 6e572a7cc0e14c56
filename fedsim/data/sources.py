"""Which data sources there are, and from a scenario's `data` block to a `Dataset`."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedsim.data import folder, hub, mnist, npz, photos
from fedsim.data.dataset import Dataset
from fedsim.errors import BadInput

SOURCES: dict[str, Callable[..., Dataset]] = {
    "mnist": mnist.load,
    "photos": photos.load,
    "npz": npz.load,
    "folder": folder.load,
    "hub": hub.load,
}


def names() -> list[str]:
    """The data sources that a scenario may name."""
    return list(SOURCES)


def describe() -> dict[str, str]:
    """One line about each data source."""
    return {name: (source.__doc__ or "").splitlines()[0] for name, source in SOURCES.items()}


def load(spec: Mapping[str, Any]) -> Dataset:
    """The data set that a scenario's `data` block describes. The last few are kept in memory.

    Args:
        spec: `name`, and what its source takes: `image_size`, `test_fraction`, `path` (npz, folder), `dataset`,
            `subset`, `image_key`, `label_key` (hub). A key that is None is as good as absent; `partition` is not
            looked at.

    Raises:
        BadInput: an unknown source, a key that it does not take or lacks, or data that cannot be used.
    """
    given = {key: value for key, value in spec.items() if value is not None and key not in ("name", "partition")}
    name = str(spec.get("name"))
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BadInput(f"data.name: unknown data set {name!r}{hint} (known: {', '.join(SOURCES)})")
    _check(name, given)
    # A file or folder that has changed since it was read is another data set.
    path = Path(given["path"]) if "path" in given else None
    changed = path.stat().st_mtime_ns if path is not None and path.exists() else 0
    return _load(name, json.dumps(given, sort_keys=True, default=str), changed)


@lru_cache(maxsize=4)
def _load(name: str, given: str, changed: int) -> Dataset:
    return SOURCES[name](**json.loads(given))


def _check(name: str, given: Mapping[str, Any]) -> None:
    accepted = inspect.signature(SOURCES[name]).parameters
    for key in given:
        if key not in accepted:
            raise BadInput(f"data.{key}: {name} takes no such key (it takes {', '.join(accepted)})")
    for key, parameter in accepted.items():
        if parameter.default is parameter.empty and key not in given:
            raise BadInput(f"data.{key}: {name} needs it ({describe()[name]})")
    fraction, size = given.get("test_fraction", 0), given.get("image_size", 1)
    if not 0 <= fraction < 1:
        raise BadInput(f"data.test_fraction: {fraction} is not in [0, 1)")
    if not (isinstance(size, int) and size >= 1):
        raise BadInput(f"data.image_size: {size} is not a number of pixels")

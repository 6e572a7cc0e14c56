"""The run directory: who it belongs to, and where everything lies.

    fedsim-run.json     our marker: the scenario's name, the present scenario, how it was started
    cells/<key>/        what was trained, seen and sealed       (fedsim.federation)
    pretrained/         the global models that cells start from  (fedsim.federation.start)
    jobs/<key>/         what an attack answered                 (fedsim.runs.attack)
    scores/<key>/       its rows and pictures                   (fedsim.scoring)
    truth/salt          what its clients' randomness was salted with, if it was (fedsim.runs.salt)
    results.parquet     the table of the present scenario
    simulation.log      the output of Flower and Ray

Keys are content hashes of all that the content depends on, fedsim's version included; every folder appears whole, by a
rename. So a killed run goes on where it was, and nothing is done twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedsim import records
from fedsim.errors import BadInput, Damaged
from fedsim.files import write_json

MARKER = "fedsim-run.json"


@dataclass(frozen=True)
class RunDirectory:
    path: Path

    def cell(self, key: str) -> Path:
        return self.path / "cells" / key

    def cell_error(self, key: str) -> Path:
        return self.path / "cells" / f"{key}.error.json"

    def lost(self, key: str) -> list[dict[str, Any]]:
        """The clients that a trained cell lost (round, client, reason): such a cell is trained again."""
        file = self.cell(key) / "cell.json"
        try:
            return list(records.read(file, records.Trained).get("lost", [])) if file.exists() else []
        except Damaged:  # what it says is missing from the table, which warns of it
            return []

    @property
    def pretrained(self) -> Path:
        return self.path / "pretrained"

    def job(self, key: str) -> Path:
        return self.path / "jobs" / key

    def score(self, key: str) -> Path:
        return self.path / "scores" / key

    @property
    def results(self) -> Path:
        return self.path / "results.parquet"

    @property
    def log(self) -> Path:
        return self.path / "simulation.log"

    @property
    def salt_file(self) -> Path:
        return self.path / "truth" / "salt"

    def salt(self) -> str | None:
        """What the clients' randomness was salted with, in hexadecimal digits; None if it was not.

        It is as secret as the truth until the run is published.
        """
        return self.salt_file.read_text().strip() if self.salt_file.exists() else None

    def marker(self, *needed: str) -> dict[str, Any]:
        """The marker's content; raises BadInput where there is no run, or where a needed key is missing from it."""
        try:
            content = records.read(self.path / MARKER, records.Marker)
        except (FileNotFoundError, NotADirectoryError):
            there = "" if self.path.exists() else "no such directory, so "
            raise BadInput(f"{self.path}: {there}not a fedsim run (no {MARKER} in it)") from None
        if absent := [key for key in needed if key not in content]:
            raise Damaged(self.path / MARKER, f"has no {absent[0]}")
        return content


def check_owner(path: Path, name: str) -> None:
    """Refuse a directory that is not ours, or that belongs to a scenario of another name. Writes nothing."""
    with _usable(path):
        _check_owner(path, name)


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """A directory that the system refuses (no permission, a name too long, a full disk) is bad input."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(f"{path}: cannot be the run directory: {reason}; choose another --out") from None


def _check_owner(path: Path, name: str) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise BadInput(f"{path}: is a file; --out takes a directory")
    if not (path / MARKER).exists():
        if any(path.iterdir()):
            raise BadInput(f"{path}: is not empty and not a fedsim run; --out takes a new directory or an earlier run")
        return
    owner = RunDirectory(path).marker().get("name")
    if owner != name:
        raise BadInput(f"{path}: belongs to the scenario {owner!r}, not {name!r}; choose another --out")


@contextmanager
def claimed(path: Path, marker: dict[str, Any], *, fresh: bool) -> Iterator[RunDirectory]:
    """The run directory, held by a lock for the length of the block.

    Args:
        marker: what to write into the marker; its `name` is checked against the directory's owner first.
        fresh: delete what an earlier run left.
    """
    check_owner(path, marker["name"])
    new = not path.exists()
    with _usable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.parent / f".{path.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BadInput(f"{path}: another fedsim is running here; wait for it, or choose another --out") from None
    try:
        with _usable(path):
            if fresh and not new:
                shutil.rmtree(path)
            path.mkdir(exist_ok=True)
            for folder in ("cells", "pretrained", "jobs", "scores"):
                for leftover in (path / folder).glob(".tmp-*"):
                    shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink()
            write_json(path / MARKER, marker)
        yield RunDirectory(path)
    finally:
        if new and not (path / MARKER).exists():  # it could not even be begun: leave nothing behind
            shutil.rmtree(path, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()

"""The directory of entries: written by those who submit a run, read by those who show them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from fedsim.errors import BadInput, no_file
from fedsim.files import write_bytes, write_json
from fedsim.reporting.entries import pictures as entry_pictures
from fedsim.reporting.entries.entry import FORMAT, Entry
from fedsim.reporting.entries.making import entries_of
from fedsim.reporting.gallery import Pictures

DIRECTORY = Path("leaderboard") / "entries"
_LARGEST_FILE = 1 << 18
_WANTED = f"give an entry, as {DIRECTORY / 'NAME.json'}"


def submit(
    directory: Path, results: pl.DataFrame, pictures: Pictures, marker: dict[str, Any], *, salt: str | None = None
) -> list[Path]:
    """Write the entries of a run, each whole or not at all; what an earlier submission of it left is replaced.

    An entry whose scores are the former ones keeps its verifications.

    Args:
        directory: where entries lie; made if it is not there.
        results: rows of `fedsim.table.SCHEMA` of one run.
        pictures: where the pictures of a job are.
        marker: the run's marker: its `name`, `scenario` and `command`.
        salt: the run's, if it was salted; from now on it is public.

    Returns:
        The JSON files.

    Raises:
        BadInput: the run has no scored rows, or its names are longer than an entry takes; nothing was written.
    """
    try:
        made = list(entries_of(results, pictures, marker, salt=salt))
    except ValidationError as error:
        raise BadInput(f"the run {marker['name']!r} cannot be submitted: {_first_fault(error)}") from None
    if not made:
        raise BadInput(f"the run {marker['name']!r} has no scored rows, so there is nothing to submit")
    paths = []
    for entry, sprite in made:
        picture = directory / f"{entry.stem}.png"
        if sprite is None:
            picture.unlink(missing_ok=True)
        else:
            write_bytes(picture, sprite.png)
        paths.append(write(directory, _with_verifications(directory, entry)))
    return paths


def write(directory: Path, entry: Entry) -> Path:
    """Write an entry's JSON file, in the place of a former one; returns its path."""
    path = directory / f"{entry.stem}.json"
    write_json(path, entry.model_dump(mode="json"))
    return path


def _with_verifications(directory: Path, entry: Entry) -> Entry:
    """The entry with what was verified of the former one, if that says the same of the same victims."""
    path = directory / f"{entry.stem}.json"
    try:
        former = read_one(path) if path.exists() else entry
    except ValueError:
        return entry
    same = (former.scores, former.victims, former.source.salt) == (entry.scores, entry.victims, entry.source.salt)
    return entry.model_copy(update={"verified": former.verified}) if same else entry


@dataclass(frozen=True)
class Collection:
    """The good entries of a directory by their file's stem, in the order of the stems, and what is wrong with others.

    An entry whose picture is missing or wrong is there without its picture.
    """

    entries: dict[str, Entry]
    problems: list[str]


def read(directory: Path) -> Collection:
    """Read every entry of a directory.

    Raises:
        BadInput: there is no such directory.
    """
    if not directory.is_dir():
        raise BadInput(f"{directory}: no such directory; --entries names the one that holds the leaderboard's entries")
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    pictures: set[str] = set()
    files = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    for path in files:
        if path.suffix == ".json":
            try:
                entry = read_one(path)
            except ValueError as error:
                problems.append(f"{path}: {error}")
                continue
            if entry.picture is not None:
                pictures.add(entry.picture.file)
                wrong = entry_pictures.fault(
                    directory / entry.picture.file, sha256=entry.picture.sha256, size=entry.picture.size
                )
                if wrong is not None:
                    problems.append(f"{path}: its picture {entry.picture.file} {wrong}")
                    entry = entry.model_copy(update={"picture": None})
            entries[path.stem] = entry
    # The picture of an entry that could not be read is not a second problem.
    unread = {path.with_suffix(".png").name for path in files if path.suffix == ".json" and path.stem not in entries}
    for path in files:
        if path.suffix != ".json" and path.name not in pictures | unread:
            problems.append(f"{path}: belongs to no entry")
    return Collection(entries, problems)


def read_one(path: Path) -> Entry:
    """The entry in a file; raises ValueError with a reason of one line. Its picture is not looked at."""
    if not path.exists():
        raise ValueError(f"no such file; {_WANTED}")
    if not path.is_file() or path.is_symlink():
        raise ValueError(f"{no_file(path)}; {_WANTED}")
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError("is larger than 256 KiB, which no entry is")
    try:
        entry = Entry.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(_first_fault(error)) from None
    if path.stem != entry.stem:
        raise ValueError(f"an entry with this content is called {entry.stem}.json")
    if entry.picture is not None and entry.picture.file != f"{entry.stem}.png":
        raise ValueError(f"picture.file: should be {entry.stem}.png")
    return entry


def _first_fault(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    for fault in faults:
        if fault["loc"] == ("format",):
            former = fault["input"] if fault["type"] == "literal_error" and isinstance(fault["input"], int) else None
            if former is not None and former < FORMAT:
                return f"is no entry of format {FORMAT} but of format {former}, no longer read: submit its run again"
            return f"is no entry of format {FORMAT}; another version of fedsim wrote it, or another program"
    first = faults[0]
    where = ".".join(str(step) for step in first["loc"])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return " ".join(f"{where + ': ' if where else ''}{first['msg']}{more}".split())

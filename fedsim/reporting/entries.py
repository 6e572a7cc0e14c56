"""Entries of the public leaderboard: one JSON file for each attack on each model under each defense.

An entry is one row of `fedsim.reporting.leaderboard.build`, with all that repeats it and a small picture beside it. Its
file is named after what it is about and a hash of that, so that a run submitted again replaces its own entries. Entries
come in by pull requests: whatever is read here is checked, and shown as text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from fedsim.errors import BadInput
from fedsim.files import write_bytes, write_json
from fedsim.reporting import entry_pictures
from fedsim.reporting.entry import (
    FORMAT,
    LONGEST,
    MOST_VALUES,
    Attack,
    Cost,
    Defense,
    Entry,
    Estimate,
    Picture,
    Scores,
    Setting,
    Source,
    Value,
    Victims,
    digest,
)
from fedsim.reporting.gallery import Pictures
from fedsim.reporting.leaderboard import ROW, THREAT, build, labelled
from fedsim.scoring.summary import counted

DIRECTORY = Path("leaderboard") / "entries"
_LARGEST_FILE = 1 << 18
_ESTIMATES = ("psnr", "ssim", "lpips", "mask_accuracy", "leaked_psnr", "leaked_ssim", "bit_exact")


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


def entries_of(
    results: pl.DataFrame, pictures: Pictures, marker: dict[str, Any], *, salt: str | None = None
) -> Iterator[tuple[Entry, entry_pictures.Sprite | None]]:
    """The run's entries with their pictures: one for each row of its leaderboard that has answers or failures."""
    board = build(results)
    if not (board["answered"] > 0).any():
        return
    drawn = entry_pictures.sprites(results, pictures)
    rows = labelled(results).filter(~pl.col("development"))
    origin = {"scenario": marker["name"], "definition": portable(marker["scenario"]), "command": marker["command"]}
    parts = dict(counted(rows).group_by(ROW, maintain_order=True))
    for row in board.filter((pl.col("n") > 0) & ((pl.col("answered") > 0) | (pl.col("failed") > 0))).to_dicts():
        part = parts[tuple(row[name] for name in ROW)]
        sprite = drawn.get((row["setting_label"], row["defense_label"], row["attack_label"]))
        entry = _entry(row, _source(part, origin, salt), _values(part))
        if sprite is not None:
            picture = Picture(
                file=f"{entry.stem}.png", sha256=sprite.sha256, tile=sprite.tile, psnr=[*map(_finite, sprite.psnr)]
            )
            entry = entry.model_copy(update={"picture": picture})
        yield entry, sprite


_OWN_FILES = {"path", "checkpoint"}


def portable(block: Any, key: str = "") -> Any:
    """A scenario without the places of the user's own files: each is named by its last part alone."""
    if isinstance(block, dict):
        return {name: portable(value, name) for name, value in block.items()}
    if isinstance(block, list):
        return [portable(value, key) for value in block]
    return Path(block).name if isinstance(block, str) and key.rpartition(".")[2] in _OWN_FILES else block


def _source(part: pl.DataFrame, origin: dict[str, Any], salt: str | None) -> Source:
    answers = part.filter("answered") if part["answered"].any() else part
    return Source(
        **origin,
        scenario_hash=digest(origin["definition"]),
        salt=salt,
        seeds=sorted(part["seed"].unique()),
        fedsim_version=", ".join(sorted(answers["fedsim_version"].drop_nulls().unique())) or "unknown",
        hardware=sorted(answers["device"].drop_nulls().unique()),
        environments=[json.loads(text) for text in sorted(answers["environment"].drop_nulls().unique())],
    )


def _values(part: pl.DataFrame) -> list[Value]:
    victims = part.sort("seed", "round", "client", "sample").head(MOST_VALUES)
    return [Value(**victim) for victim in victims.select(*Value.model_fields).to_dicts()]


def _entry(row: dict[str, Any], source: Source, values: list[Value]) -> Entry:
    def estimate(name: str) -> Estimate | None:
        value = _finite(row[name])
        if value is None:
            return None
        return Estimate(value=value, low=_finite(row[f"{name}_low"]), high=_finite(row[f"{name}_high"]))

    return Entry(
        format=FORMAT,
        setting=Setting(
            label=row["setting_label"],
            dataset=row["dataset"],
            model=row["model"],
            params=json.loads(row["setting_params"]),
            batch_size=row["batch_size"],
            local_steps=row["local_steps"],
            update_kind=row["update_kind"],
            conditions=portable(json.loads(row["setting"])),
        ),
        defense=Defense(
            label=row["defense_label"], parts=json.loads(row["defense_params"]), dropout=_finite(row["dropout"])
        ),
        attack=Attack(
            label=row["attack_label"], name=row["attack"], params=json.loads(row["attack_params"]), role=row["role"]
        ),
        threat_model={name.removeprefix("threat_"): row[name] for name in THREAT},
        scores=Scores.model_validate(
            {name: estimate(name) for name in _ESTIMATES}
            | {name: _finite(row[name]) for name in Scores.model_fields if name not in _ESTIMATES}
        ),
        cost=Cost.model_validate(
            {name: _finite(row[name]) for name in Cost.model_fields if name not in ("epsilon", "of")}
            | {
                "epsilon": "infinite" if row["epsilon"] == math.inf else _finite(row["epsilon"]),
                "of": json.loads(row["cost_of"]) if row["cost_of"] else None,
            }
        ),
        victims=Victims(
            attacked=row["n"],
            **{name: row[name] for name in ("answered", "clients", "not_applicable", "failed", "stages")},
            reason=row["reason"][:LONGEST] if row["reason"] else None,
            values=values,
        ),
        source=source,
        verified=[],
        picture=None,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


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
        raise BadInput(f"{directory}: no such directory; it should hold the leaderboard's entries")
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
        raise ValueError("no such file; give an entry, as leaderboard/entries/NAME.json")
    if not path.is_file() or path.is_symlink():
        raise ValueError("is no ordinary file")
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

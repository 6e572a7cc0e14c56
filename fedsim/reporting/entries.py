"""Entries of the public leaderboard: one JSON file for each attack on each model under each defense.

An entry is one row of `fedsim.reporting.leaderboard.build`, with where it comes from and a small picture beside it. Its
file is named after what it is about and a hash of that, so that a run submitted again replaces its own entries. Entries
come in by pull requests: whatever is read here is checked, and shown as text.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from attacks import ThreatModel
from fedsim.errors import BadInput
from fedsim.files import key_of, write_bytes, write_json
from fedsim.reporting import entry_pictures
from fedsim.reporting.gallery import Pictures
from fedsim.reporting.leaderboard import ROW, THREAT, build, labelled

DIRECTORY = Path("leaderboard") / "entries"
FORMAT: Literal[1] = 1
_LARGEST_FILE = 1 << 18
_LONGEST = 4000  # characters
_THREAT_MODEL = TypeAdapter(ThreatModel)

Name = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
Prose = Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Params = dict[Name, JsonValue]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Estimate(_Part):
    """A value and the ends of its 95 % interval, which one image alone does not have."""

    value: float
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Estimate:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("the interval's low end is above its high end")
        return self


class Setting(_Part):
    """What was trained, on what, and what clients sent."""

    label: Name
    dataset: Name
    model: Name
    params: Params
    batch_size: Annotated[int, Field(ge=1)]
    local_steps: Annotated[int, Field(ge=1)]
    update_kind: Literal["gradient", "delta"] | None


class Defense(_Part):
    """The defense's parts with their parameters, and the effective dropout rate of the model."""

    label: Name
    parts: Annotated[list[Params], Field(max_length=20)]
    dropout: Share | None

    @field_validator("parts")
    @classmethod
    def _named(cls, parts: list[Params]) -> list[Params]:
        if not all(isinstance(part.get("name"), str) and part["name"] for part in parts):
            raise ValueError("each part of a defense has a name")
        return parts

    @property
    def name(self) -> str:
        """The names of its parts, without their parameters."""
        return " + ".join(str(part["name"]) for part in self.parts) or "none"


class Attack(_Part):
    """The attack; an oracle was given what no real server has, a floor never looks at the update."""

    label: Name
    name: Name
    params: Params
    role: Literal["attack", "oracle", "floor"]


class Scores(_Part):
    """Medians over images, and shares of them; PSNR in dB is capped at 100."""

    psnr: Estimate | None
    ssim: Estimate | None
    lpips: Estimate | None
    mask_accuracy: Estimate | None
    leaked_psnr: Estimate | None
    leaked_ssim: Estimate | None
    bit_exact: Estimate | None
    label_accuracy: Share | None


class Cost(_Part):
    """What the attack and the defense cost: seconds are per victim, utility is test accuracy."""

    iterations: Amount | None
    seconds: Amount | None
    utility: Share | None
    epsilon: Amount | Literal["infinite"] | None
    delta: Share | None


class Victims(_Part):
    """How many images the scores are of, what happened to the others, and which cascade stages answered."""

    images: Annotated[int, Field(ge=1)]
    not_applicable: Count
    failed: Count
    reason: Prose | None
    stages: Prose | None


class Source(_Part):
    """The run that the entry comes from."""

    scenario: Name
    scenario_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    seeds: Annotated[list[int], Field(min_length=1, max_length=1000)]
    command: Prose
    fedsim_version: Name
    hardware: Annotated[list[Name], Field(max_length=20)]


class Picture(_Part):
    """A PNG beside the entry: a column for each victim, originals above reconstructions; tiles are [width, height]."""

    file: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*\.png$", max_length=200)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    tile: tuple[
        Annotated[int, Field(ge=1, le=entry_pictures.LARGEST)], Annotated[int, Field(ge=1, le=entry_pictures.LARGEST)]
    ]
    psnr: Annotated[list[float | None], Field(min_length=1, max_length=entry_pictures.VICTIMS)]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole, in pixels."""
        return self.tile[0] * len(self.psnr), self.tile[1] * 2


class Entry(_Part):
    """One JSON file of the leaderboard."""

    format: Literal[1]
    setting: Setting
    defense: Defense
    attack: Attack
    threat_model: dict[Name, Name]
    scores: Scores
    cost: Cost
    victims: Victims
    source: Source
    picture: Picture | None

    @field_validator("threat_model")
    @classmethod
    def _known(cls, fields: dict[str, str]) -> dict[str, str]:
        names = {column.removeprefix("threat_") for column in THREAT}
        if fields.keys() != names:
            raise ValueError(f"its fields are {', '.join(sorted(names))}")
        _THREAT_MODEL.validate_python(fields)
        return fields

    @property
    def stem(self) -> str:
        """The name of the entry's files: readable, and made unique by a hash of what the entry is about."""
        about = {
            "scenario": [self.source.scenario, self.source.scenario_hash],
            "setting": self.setting.model_dump(mode="json", exclude={"label"}),
            "defense": [self.defense.model_dump(mode="json", exclude={"label"})],
            "attack": self.attack.model_dump(mode="json", include={"name", "params"}),
            "threat_model": self.threat_model,
        }
        words = (self.source.scenario, self.setting.model, self.defense.label, self.attack.name)
        return "--".join([*(slug(word)[:32] for word in words), key_of(about)[:8]])


def slug(text: str) -> str:
    """Lower-case letters, digits, `.`, `_` and `-`: what is safe as part of a file name and of an address."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.") or "x"


def submit(directory: Path, results: pl.DataFrame, pictures: Pictures, marker: dict[str, Any]) -> list[Path]:
    """Write the entries of a run, each whole or not at all; what an earlier submission of it left is replaced.

    Args:
        directory: where entries lie; made if it is not there.
        results: rows of `fedsim.table.SCHEMA` of one run.
        pictures: where the pictures of a job are.
        marker: the run's marker: its `name`, `scenario` and `command`.

    Returns:
        The JSON files.

    Raises:
        BadInput: the run has no scored rows, or its names are longer than an entry takes; nothing was written.
    """
    try:
        made = list(entries_of(results, pictures, marker))
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
        path = directory / f"{entry.stem}.json"
        write_json(path, entry.model_dump(mode="json"))
        paths.append(path)
    return paths


def entries_of(
    results: pl.DataFrame, pictures: Pictures, marker: dict[str, Any]
) -> Iterator[tuple[Entry, entry_pictures.Sprite | None]]:
    """The run's entries with their pictures: one for each row of its leaderboard that has scores."""
    board = build(results)
    if not (board["answered"] > 0).any():
        return
    drawn = entry_pictures.sprites(results, pictures)
    sources = _sources(labelled(results), marker)
    for row in board.filter(pl.col("answered") > 0).to_dicts():
        sprite = drawn.get((row["setting_label"], row["defense_label"], row["attack_label"]))
        entry = _entry(row, sources[tuple(row[name] for name in ROW)])
        if sprite is not None:
            picture = Picture(
                file=f"{entry.stem}.png", sha256=sprite.sha256, tile=sprite.tile, psnr=[*map(_finite, sprite.psnr)]
            )
            entry = entry.model_copy(update={"picture": picture})
        yield entry, sprite


def _sources(rows: pl.DataFrame, marker: dict[str, Any]) -> dict[tuple[object, ...], Source]:
    """Where each row of the leaderboard comes from, by the values of `ROW`."""
    scenario = json.dumps(marker["scenario"], sort_keys=True)
    groups = rows.filter(pl.col("status") == "ok").group_by(ROW, maintain_order=True)
    return {
        key: Source(
            scenario=marker["name"],
            scenario_hash=hashlib.sha256(scenario.encode()).hexdigest()[:16],  # as Scenario.digest has it
            seeds=sorted(part["seed"].unique()),
            command=marker["command"],
            fedsim_version=", ".join(sorted(part["fedsim_version"].drop_nulls().unique())) or "unknown",
            hardware=sorted(part["device"].drop_nulls().unique()),
        )
        for key, part in groups
    }


def _entry(row: dict[str, Any], source: Source) -> Entry:
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
        ),
        defense=Defense(
            label=row["defense_label"], parts=json.loads(row["defense_params"]), dropout=_finite(row["dropout"])
        ),
        attack=Attack(
            label=row["attack_label"], name=row["attack"], params=json.loads(row["attack_params"]), role=row["role"]
        ),
        threat_model={name.removeprefix("threat_"): row[name] for name in THREAT},
        scores=Scores(
            **{name: estimate(name) for name in Scores.model_fields if name != "label_accuracy"},
            label_accuracy=_finite(row["label_accuracy"]),
        ),
        cost=Cost(
            iterations=_finite(row["iterations"]),
            seconds=_finite(row["seconds"]),
            utility=_finite(row["utility"]),
            epsilon="infinite" if row["epsilon"] == math.inf else _finite(row["epsilon"]),
            delta=_finite(row["delta"]),
        ),
        victims=Victims(
            images=row["n"],
            not_applicable=row["not_applicable"],
            failed=row["failed"],
            reason=row["reason"][:_LONGEST] if row["reason"] else None,
            stages=row["stages"],
        ),
        source=source,
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
                entry = _read(path)
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


def _read(path: Path) -> Entry:
    """One entry; raises ValueError with a reason of one line."""
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
    faults = error.errors(include_url=False, include_input=False)
    if any(fault["loc"] == ("format",) for fault in faults):
        return f"is no entry of format {FORMAT}; another version of fedsim wrote it, or another program"
    first = faults[0]
    where = ".".join(str(step) for step in first["loc"])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return " ".join(f"{where + ': ' if where else ''}{first['msg']}{more}".split())

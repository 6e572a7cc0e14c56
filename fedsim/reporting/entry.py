"""The format of a leaderboard entry: what one JSON file says, and what it must fulfil to be believed at all.

Entries are what strangers send, so nothing is taken on trust that can be checked: the scores follow from the victims'
values where all are listed, the hash from the scenario, and an attack's role from the registry.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    field_serializer,
    field_validator,
    model_validator,
)

import attacks
from attacks import ThreatModel
from attacks.observation import SUM
from defenses.registry import UnknownName
from fedsim.files import key_of
from fedsim.knowledge import told
from fedsim.reporting import entry_pictures
from fedsim.reporting.leaderboard import THREAT
from fedsim.scoring import intervals
from fedsim.table import LEAKED_PSNR, PSNR_CAP_SUMMARY

FORMAT: Literal[2] = 2
MOST_VALUES = 256
"""Victims that an entry lists one by one."""
LONGEST = 4000
"""Characters of a prose field."""
_THREAT_MODEL = TypeAdapter(ThreatModel)

Name = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
Prose = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0)]
Params = dict[Name, JsonValue]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Estimate(_Part):
    """A value and the ends of its interval, which one client alone does not have."""

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
    """What was trained, on what, and what clients sent; `conditions` is all that can change a result, as data."""

    label: Name
    dataset: Name
    model: Name
    params: Params
    batch_size: Positive
    local_steps: Positive
    update_kind: Literal["gradient", "delta"] | None
    conditions: Params

    @model_validator(mode="after")
    def _described(self) -> Setting:
        """The conditions are of the form that a label is made from, and say the same as the fields beside them."""
        if not self.conditions:
            return self
        for path, said in (
            (("data", "name"), self.dataset),
            (("model", "factory" if "factory" in _block(self.conditions, "model") else "name"), self.model),
            (("federation", "local", "batch_size"), self.batch_size),
            (("federation", "local", "steps"), self.local_steps),
        ):
            block = self.conditions
            for key in path[:-1]:
                block = _block(block, key)
            found = block.get(path[-1])
            if found != said:
                raise ValueError(f"conditions.{'.'.join(path)}: {found!r}, where the setting says {said!r}")
        start = _block(self.conditions, "start")
        if "checkpoint" in start and not isinstance(_block(start, "checkpoint").get("path"), str):
            raise ValueError("conditions.start.checkpoint.path is missing")
        return self


def _block(block: Params, key: str) -> Params:
    """The mapping under a key; an empty one where there is none, or something else."""
    inner = block.get(key)
    return inner if isinstance(inner, dict) else {}


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

    @model_validator(mode="after")
    def _honest(self) -> Attack:
        try:
            known = attacks.get(self.name)
        except UnknownName:
            return self
        role = "floor" if known.floor else "oracle" if known.oracle else self.role
        if role != self.role:
            raise ValueError(f"{self.name} is an {role}" if role == "oracle" else f"{self.name} is a {role}")
        return self


class Scores(_Part):
    """Medians over the images that were attacked, and shares of them; PSNR in dB is capped at 100.

    `level` is that of the medians' intervals: 0.95, or less for the range of fewer than six clients. `chosen_psnr` is
    the median on development victims, by which the strongest attack is chosen.
    """

    psnr: Estimate | None
    ssim: Estimate | None
    lpips: Estimate | None
    mask_accuracy: Estimate | None
    leaked_psnr: Estimate | None
    leaked_ssim: Estimate | None
    bit_exact: Estimate | None
    label_accuracy: Share | None
    level: Share | None
    coverage: Share | None
    chosen_psnr: float | None


class Cost(_Part):
    """What the attack and the defense cost: seconds are per victim, utility is test accuracy.

    `at_budget` is the share of the attack's answers that stopped at its budget of iterations; `of` says what training
    utility and epsilon are of. `bytes` are those that a client sends, `bytes_relative` over an undefended one's;
    `utility` is a mean over `utility_seeds`. The first entries say neither, nor `epsilon_prv`.
    """

    iterations: Amount | None
    seconds: Amount | None
    at_budget: Share | None
    utility: Share | None
    utility_low: Share | None
    utility_high: Share | None
    utility_seeds: Count | None = None
    utility_reachable: Share | None
    epsilon: Amount | Literal["infinite"] | None
    epsilon_prv: Amount | None = None
    delta: Share | None
    bytes: Amount | None = None
    bytes_relative: Amount | None = None
    of: Params | None

    @model_validator(mode="after")
    def _described(self) -> Cost:
        of = self.of or {}
        if not of.get("same_form", True) and not all(
            isinstance(of.get(key), kind) for key, kind in (("share", str), ("batch_size", int), ("steps", int))
        ):
            raise ValueError("of: a training of another form names its share, batch_size and steps")
        return self


class Value(_Part):
    """The score of one victim, at most 100 dB; the floor's where there was no answer, null where none was taken."""

    seed: Seed
    round: Positive
    client: Count
    sample: Count
    psnr: Annotated[float, Field(le=PSNR_CAP_SUMMARY)] | None
    answered: bool


class Victims(_Part):
    """The images that were attacked, how many were answered, what happened to the others, who of a cascade answered.

    `values` lists the first of them one by one, so that a repetition can be compared with them.
    """

    attacked: Positive
    answered: Count
    clients: Positive
    not_applicable: Count
    failed: Count
    reason: Prose | None
    stages: Prose | None
    values: Annotated[list[Value], Field(min_length=1, max_length=MOST_VALUES)]


class Source(_Part):
    """The run that the entry comes from, and all that repeats it: `definition` is the whole scenario.

    The user's own files stand there by their name; their content is a hash in the entry's `setting.conditions`. `salt`
    is what a salted run mixed into its seeds, which is published with its results.
    """

    scenario: Name
    scenario_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    definition: Params
    salt: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=1000)]
    command: Prose
    fedsim_version: Name
    hardware: Annotated[list[Name], Field(max_length=20)]
    environments: Annotated[list[Params], Field(max_length=20)]

    @model_validator(mode="after")
    def _same(self) -> Source:
        if digest(self.definition) != self.scenario_hash:
            raise ValueError("scenario_hash is not that of the definition")
        return self


class Verification(_Part):
    """That somebody repeated some of the entry's victims by `fedsim verify`, and what came of it."""

    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    outcome: Literal["agrees", "differs", "other environment"]
    victims: Positive
    fedsim_version: Name
    environment: Params


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


_SINCE = {"batch_order": "unknown"}
"""Fields of the threat model that came after the first entries, and what they were then."""


class Entry(_Part):
    """One JSON file of the leaderboard."""

    format: Literal[2]
    setting: Setting
    defense: Defense
    attack: Attack
    threat_model: dict[Name, Name]
    scores: Scores
    cost: Cost
    victims: Victims
    source: Source
    verified: Annotated[list[Verification], Field(max_length=1000)]
    picture: Picture | None

    @field_validator("threat_model")
    @classmethod
    def _known(cls, fields: dict[str, str]) -> dict[str, str]:
        fields = {**_SINCE, **fields}
        names = {column.removeprefix("threat_") for column in THREAT}
        if fields.keys() != names:
            raise ValueError(f"its fields are {', '.join(sorted(names))}")
        _THREAT_MODEL.validate_python(fields)
        return fields

    @field_serializer("threat_model")
    def _as_ever(self, fields: dict[str, str]) -> dict[str, str]:
        """An entry's name follows from its content: what is as it was before there was such a field says nothing."""
        return {name: value for name, value in fields.items() if _SINCE.get(name) != value}

    @model_validator(mode="after")
    def _follows(self) -> Entry:
        _, beyond = told(self.attack.name, self.threat_model, images=1)
        if "noise" in beyond and self.attack.role == "attack":
            raise ValueError(f"{self.attack.name} was told what the client drew: it is an oracle")
        summed = self.threat_model["aggregation"] != "individual"
        for said in _contradictions(self.scores, self.victims, summed=summed):
            raise ValueError(said)
        return self

    @property
    def stem(self) -> str:
        """The name of the entry's files: readable, and made unique by a hash of what the entry is about."""
        about = {
            "scenario": [self.source.scenario, self.source.scenario_hash],
            "setting": self.setting.model_dump(mode="json", exclude={"label"}),
            "defense": [self.defense.model_dump(mode="json", exclude={"label"})],
            "attack": self.attack.model_dump(mode="json", include={"name", "params"}),
            "threat_model": self._as_ever(self.threat_model),
        }
        words = (self.source.scenario, self.setting.model, self.defense.label, self.attack.name)
        return "--".join([*(slug(word)[:32] for word in words), key_of(about)[:8]])


def _contradictions(scores: Scores, victims: Victims, *, summed: bool) -> Iterator[str]:
    """What an entry says of itself that cannot be so. All images of a sum over clients are one unit."""
    values = victims.values
    places = {(value.seed, value.round, value.client, value.sample) for value in values}
    if len(places) < len(values):
        yield "victims.values: a victim stands there twice"
    if len(values) != min(victims.attacked, MOST_VALUES):
        yield f"victims.values: {len(values)} of {victims.attacked} victims"
    if victims.answered > victims.attacked or victims.clients > victims.attacked:
        yield "victims: more were answered than attacked"
    if scores.psnr is None or len(values) < victims.attacked:
        return
    clients: dict[tuple[int, int], list[float]] = {}
    for value in values:
        unit = value.seed, SUM if summed else value.client
        clients.setdefault(unit, []).append(math.nan if value.psnr is None else value.psnr)
    medians = [float(np.median(scored)) for scored in clients.values()]
    low, high = intervals.of_median(medians)
    leaked = sum(value.answered and (value.psnr or 0.0) > LEAKED_PSNR for value in values) / len(values)
    answered = sum(value.answered for value in values)
    for name, said, follows in (
        ("scores.psnr", scores.psnr.value, float(np.median(medians))),
        ("scores.psnr.low", scores.psnr.low, low),
        ("scores.psnr.high", scores.psnr.high, high),
        ("scores.level", scores.level, intervals.level(len(clients))),
        ("scores.leaked_psnr", None if scores.leaked_psnr is None else scores.leaked_psnr.value, leaked),
        ("scores.coverage", scores.coverage, answered / len(values)),
        ("victims.answered", victims.answered, answered),
        ("victims.clients", victims.clients, len(clients)),
    ):
        if (said is None) != (follows is None) or (
            said is not None and follows is not None and not math.isclose(said, follows, rel_tol=1e-6, abs_tol=1e-6)
        ):
            yield f"{name}: {said}, where victims.values give {follows}"


def digest(definition: dict[str, Any]) -> str:
    """The hash of a scenario, as `fedsim.scenario.Scenario.digest` has it."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:16]


def slug(text: str) -> str:
    """Lower-case letters, digits, `.`, `_` and `-`: what is safe as part of a file name and of an address."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.") or "x"

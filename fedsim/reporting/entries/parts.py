"""The parts of a leaderboard entry, each with what it must fulfil to be believed at all.

Entries are what strangers send, so nothing is taken on trust that can be checked: a setting says the same as its
conditions, the hash is that of the scenario, and an attack's role is the registry's.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, field_validator, model_validator

import attacks
from defenses.registry import UnknownName
from fedsim.reporting.entries import pictures
from fedsim.table import PSNR_CAP_SUMMARY

MOST_VALUES = 256
"""Victims that an entry lists one by one."""
LONGEST = 4000
"""Characters of a prose field."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
Prose = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0)]
Params = dict[Name, JsonValue]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Estimate(Part):
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


class Setting(Part):
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


class Defense(Part):
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


class Attack(Part):
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


class Scores(Part):
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


class Cost(Part):
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


class Value(Part):
    """The score of one victim, at most 100 dB; the floor's where there was no answer, null where none was taken."""

    seed: Seed
    round: Positive
    client: Count
    sample: Count
    psnr: Annotated[float, Field(le=PSNR_CAP_SUMMARY)] | None
    answered: bool


class Victims(Part):
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


class Source(Part):
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


class Verification(Part):
    """That somebody repeated some of the entry's victims by `fedsim verify`, and what came of it."""

    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    outcome: Literal["agrees", "differs", "other environment"]
    victims: Positive
    fedsim_version: Name
    environment: Params


class Picture(Part):
    """A PNG beside the entry: a column for each victim, originals above reconstructions; tiles are [width, height]."""

    file: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*\.png$", max_length=200)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    tile: tuple[
        Annotated[int, Field(ge=1, le=pictures.LARGEST)], Annotated[int, Field(ge=1, le=pictures.LARGEST)]
    ]
    psnr: Annotated[list[float | None], Field(min_length=1, max_length=pictures.VICTIMS)]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole, in pixels."""
        return self.tile[0] * len(self.psnr), self.tile[1] * 2


def digest(definition: dict[str, Any]) -> str:
    """The hash of a scenario, as `fedsim.scenario.Scenario.digest` has it."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:16]

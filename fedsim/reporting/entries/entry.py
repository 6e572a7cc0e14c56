"""The format of a leaderboard entry: what one JSON file says, and what must follow from what."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, TypeAdapter, field_serializer, field_validator, model_validator

from attacks import ThreatModel
from attacks.observation import SUM
from fedsim.files import key_of
from fedsim.knowledge import told
from fedsim.reporting.entries.parts import (
    MOST_VALUES,
    Attack,
    Cost,
    Defense,
    Name,
    Part,
    Picture,
    Scores,
    Setting,
    Source,
    Verification,
    Victims,
)
from fedsim.reporting.leaderboard import THREAT
from fedsim.scoring import intervals
from fedsim.table import LEAKED_PSNR

FORMAT: Literal[2] = 2
_THREAT_MODEL = TypeAdapter(ThreatModel)

_SINCE = {"batch_order": "unknown"}
"""Fields of the threat model that came after the first entries, and what they were then."""


class Entry(Part):
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


def slug(text: str) -> str:
    """Lower-case letters, digits, `.`, `_` and `-`: what is safe as part of a file name and of an address."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.") or "x"

"""The standings of the public leaderboard: attacks by median, defenses by their worst case.

Attacks are ranked among those with the same setting, defense and threat model, whichever scenario they come from, by
median PSNR. A defense counts by the strongest attack on it that is no oracle and no floor, and defenses are ranked
among those of the same setting and threat model: the lower the attack's median, the better the defense. Where intervals
overlap there is a tie.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from fedsim.files import key_of
from fedsim.reporting.entries import Entry, Estimate
from fedsim.reporting.naming import distinguished
from fedsim.reporting.ranking import ranks

_FOLLOWS_FROM_THE_CLIENTS = ("client_mode", "batch_norm")
"""Threat-model fields that are read off an observation: nobody grants them, so they do not part defenses."""


@dataclass
class AttackRow:
    """An entry as a row of the table of attacks."""

    stem: str
    entry: Entry
    setting_label: str
    attack_label: str
    scenario_label: str
    threat_label: str  # in which fields its threat model differs from others'; empty where all are alike
    setting_key: str
    defense_key: str
    rank: int | None = None
    tied: bool = False

    @property
    def group(self) -> str:
        """Attacks of one group are ranked against each other."""
        return key_of([self.setting_key, self.defense_key, self.entry.threat_model])

    @property
    def attack_name(self) -> str:
        return self.entry.attack.name

    @property
    def attack_apart(self) -> str:
        """The parameters that tell it from others of its name; empty where there are none."""
        if self.attack_label == self.attack_name:
            return ""
        return self.attack_label.removeprefix(f"{self.attack_name} (").removesuffix(")")

    @property
    def update_label(self) -> str:
        return {"gradient": "gradient", "delta": "weights", None: "unknown"}[self.entry.setting.update_kind]

    @property
    def setting_note(self) -> str:
        setting = self.entry.setting
        steps = f" · {setting.local_steps} steps" if setting.local_steps > 1 else ""
        return f"batch {setting.batch_size}{steps} · {self.update_label}"

    @property
    def values(self) -> list[Any]:
        """What the columns of the table are sorted by, from left to right."""
        entry, scores = self.entry, self.entry.scores
        return [
            self.rank,
            self.attack_label,
            entry.defense.label,
            f"{self.setting_label} {self.setting_note}",
            *(_value(score) for score in (scores.psnr, scores.leaked_psnr, scores.ssim, scores.lpips)),
            scores.label_accuracy,
            _value(scores.mask_accuracy),
            entry.cost.seconds,
            entry.victims.images,
            self.scenario_label,
        ]


@dataclass
class DefenseRow:
    """A defense in one setting under one threat model, by the strongest attack on it."""

    strongest: AttackRow
    utility: float | None
    epsilon: float | str | None
    tried: int  # attacks
    group: str
    rank: int = 0
    tied: bool = False
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = f"defense {self.group} {self.strongest.stem}"

    @property
    def values(self) -> list[Any]:
        """What the columns of the table are sorted by, from left to right."""
        row, scores = self.strongest, self.strongest.entry.scores
        return [
            self.rank,
            row.entry.defense.label,
            f"{row.setting_label} {row.setting_note}",
            _value(scores.psnr),
            _value(scores.leaked_psnr),
            row.attack_label,
            self.utility,
            1e300 if self.epsilon == "infinite" else self.epsilon,
            self.tried,
            row.entry.victims.images,
        ]


@dataclass(frozen=True)
class Board:
    """All rows, in the order in which a table first shows them."""

    attacks: list[AttackRow]
    defenses: list[DefenseRow]


def board_of(entries: dict[str, Entry]) -> Board:
    """The standings of entries, by the stem of their files."""
    rows = _rows(entries)
    for group in _grouped(row for row in rows if row.entry.attack.role == "attack" and row.entry.scores.psnr).values():
        for row, (rank, tied) in zip(group, ranks([_span(row) for row in group])):
            row.rank, row.tied = rank, tied
    role = {"oracle": 0, "attack": 1, "floor": 2}
    rows.sort(key=lambda row: (_place(row), row.group, role[row.entry.attack.role], -_psnr(row), row.stem))
    return Board(rows, _defenses(rows))


def _rows(entries: dict[str, Entry]) -> list[AttackRow]:
    settings = {stem: (e.setting.label, _canonical(e.setting.params)) for stem, e in entries.items()}
    named = {stem: (e.attack.name, _canonical(e.attack.params)) for stem, e in entries.items()}
    scenarios = {
        stem: (e.source.scenario, _canonical({"hash": e.source.scenario_hash[:8]})) for stem, e in entries.items()
    }
    setting_labels = distinguished(list(settings.values()))
    attack_labels = distinguished(list(named.values()))
    scenario_labels = distinguished(list(scenarios.values()))
    ordinary = [entry.threat_model for entry in entries.values() if entry.attack.role == "attack"]
    varying = [name for name in (ordinary[0] if ordinary else ()) if len({threat[name] for threat in ordinary}) > 1]
    return [
        AttackRow(
            stem=stem,
            entry=entry,
            setting_label=setting_labels[settings[stem]],
            attack_label=attack_labels[named[stem]],
            scenario_label=scenario_labels[scenarios[stem]],
            threat_label=", ".join(f"{name.replace('_', ' ')} {entry.threat_model[name]}" for name in varying),
            setting_key=_canonical(entry.setting.model_dump(mode="json", exclude={"label"})),
            defense_key=_canonical(entry.defense.model_dump(mode="json", exclude={"label"})),
        )
        for stem, entry in entries.items()
    ]


def _defenses(rows: list[AttackRow]) -> list[DefenseRow]:
    groups: dict[tuple[str, str], list[AttackRow]] = {}
    for row in rows:
        if row.entry.attack.role == "attack" and row.entry.scores.psnr is not None:
            groups.setdefault((_rivals(row), row.defense_key), []).append(row)
    found = []
    for (rivals, _), group in groups.items():
        strongest = max(group, key=_psnr)
        costs = [strongest.entry.cost, *(row.entry.cost for row in group)]
        found.append(
            DefenseRow(
                strongest,
                utility=next((cost.utility for cost in costs if cost.utility is not None), None),
                epsilon=next((cost.epsilon for cost in costs if cost.epsilon is not None), None),
                tried=len({row.attack_label for row in group}),
                group=rivals,
            )
        )
    together: dict[str, list[DefenseRow]] = {}
    for one in found:
        together.setdefault(one.group, []).append(one)
    for members in together.values():
        spans = [_span(one.strongest) for one in members]
        mirrored = [(None if high is None else -high, None if low is None else -low) for low, high in spans]
        for one, (rank, tied) in zip(members, ranks(mirrored)):
            one.rank, one.tied = rank, tied
    return sorted(found, key=lambda one: (_place(one.strongest)[:2], one.group, _psnr(one.strongest), one.key))


def _rivals(row: AttackRow) -> str:
    """Defenses with the same are ranked against each other."""
    granted = {name: value for name, value in row.entry.threat_model.items() if name not in _FOLLOWS_FROM_THE_CLIENTS}
    return key_of([row.setting_key, granted])


def _grouped(rows: Any) -> dict[str, list[AttackRow]]:
    found: dict[str, list[AttackRow]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def _place(row: AttackRow) -> tuple[str, int, bool, str]:
    """Settings by name and batch size; in each the undefended client first."""
    setting = row.entry.setting
    return row.setting_label, setting.batch_size, row.entry.defense.label != "none", row.entry.defense.label


def _span(row: AttackRow) -> tuple[float | None, float | None]:
    psnr = row.entry.scores.psnr
    return (None, None) if psnr is None else (psnr.low, psnr.high)


def _psnr(row: AttackRow) -> float:
    psnr = row.entry.scores.psnr
    return float("-inf") if psnr is None else psnr.value


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True)

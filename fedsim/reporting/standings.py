"""The standings of the public leaderboard: attacks by median, defenses by their worst case.

Attacks are ranked among those with the same setting, defense and threat model, whichever scenario they come from, by
median PSNR. A defense counts by the strongest attack on it that is no oracle and no floor, and is judged by the rules
of a run's own report (`fedsim.reporting.verdicts`). Defenses are ranked among those of the same setting and threat
model, the lower the attack's median the better, but only those that are better than no defense by their intervals: what
cannot be told apart from the undefended client has no place to win, nor has what most images were rebuilt under. Where
intervals overlap there is a tie; with fewer than six clients they are ranges, and the rank says so. Nobody is first of
one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from fedsim.files import key_of
from fedsim.reporting.entry import Entry, Estimate
from fedsim.reporting.entry_board import board_frame
from fedsim.reporting.leaderboard import DEFENSE, SETTING, THREAT
from fedsim.reporting.naming import distinguished
from fedsim.reporting.ranking import Span, ranks
from fedsim.reporting.verdicts import Verdict, verdicts
from fedsim.scoring import intervals

_FOLLOWS_FROM_THE_CLIENTS = ("client_mode", "batch_norm")
"""Threat-model fields that are read off an observation: nobody grants them, so they do not part defenses."""
_OF_THE_DEFENSE = ("defense", "dropout_rate", "aggregation")
"""What an attacker may know of the defense, and what the defense lets it see: its worst case is over all of it."""


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
    rivals: str  # defenses with the same are ranked against each other
    rivals_label: str  # as `threat_label`, of the fields that part defenses
    rank: int | None = None
    tied: bool = False
    by_range: bool = False  # the rank rests on ranges of fewer than six clients

    @property
    def group(self) -> str:
        """Attacks of one group are ranked against each other."""
        return key_of([self.setting_key, self.defense_key, self.entry.threat_model])

    @property
    def heading(self) -> str:
        return f"{self.setting_label} · {self.entry.defense.label}"

    @property
    def note(self) -> str:
        return " · ".join(filter(None, (self.setting_note, self.threat_label)))

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
        return {"gradient": "gradients", "delta": "weights", None: "unknown"}[self.entry.setting.update_kind]

    @property
    def setting_note(self) -> str:
        """What the label of the setting may leave out."""
        setting = self.entry.setting
        steps = f"{setting.local_steps} step{'' if setting.local_steps == 1 else 's'}"
        said = (f"batch {setting.batch_size}", steps, f"clients send {self.update_label}")
        return ", ".join(part for part in said if part not in self.setting_label)

    @property
    def range_level(self) -> float | None:
        """The level of the interval of its median where it is a range of too few clients; else None."""
        level = self.entry.scores.level
        return level if level is not None and level < intervals.LEVEL else None

    @property
    def verified(self) -> str:
        """`agrees`, or `agrees 2, differs 1`; empty where nobody repeated it."""
        outcomes = Counter(one.outcome for one in self.entry.verified)
        if len(outcomes) == 1 and outcomes.total() == 1:
            return next(iter(outcomes))
        return ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items()))

    @property
    def values(self) -> list[Any]:
        """What the columns of the table are sorted by, from left to right."""
        entry, scores = self.entry, self.entry.scores
        return [
            self.rank,
            self.attack_label,
            _value(scores.psnr),
            scores.coverage,
            *(_value(score) for score in (scores.leaked_psnr, scores.ssim, scores.lpips)),
            scores.label_accuracy,
            _value(scores.mask_accuracy),
            entry.cost.seconds,
            self.verified or None,
            self.scenario_label,
        ]


@dataclass
class DefenseRow:
    """A defense in one setting under one threat model, by the strongest attack on it."""

    strongest: AttackRow
    verdict: Verdict
    utility: dict[str, float | None]  # value, low and high
    epsilon: float | str | None
    bytes_relative: float | None  # over an undefended client's
    tried: int  # attacks
    rank: int | None = None
    tied: bool = False
    by_range: bool = False
    standing: str = ""  # against no defense, where it has no rank
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = f"defense {self.group} {self.strongest.stem}"

    @property
    def group(self) -> str:
        return self.strongest.rivals

    @property
    def heading(self) -> str:
        return self.strongest.setting_label

    @property
    def note(self) -> str:
        return " · ".join(filter(None, (self.strongest.setting_note, self.strongest.rivals_label)))

    @property
    def values(self) -> list[Any]:
        """What the columns of the table are sorted by, from left to right."""
        row, scores = self.strongest, self.strongest.entry.scores
        return [
            self.rank,
            row.entry.defense.label,
            self.verdict.in_words,
            _value(scores.psnr),
            scores.coverage,
            _value(scores.leaked_psnr),
            row.attack_label,
            self.utility["value"],
            1e300 if self.epsilon == "infinite" else self.epsilon,
            self.bytes_relative,
            self.tried,
        ]


@dataclass(frozen=True)
class Board:
    """All rows, in the order in which a table first shows them."""

    attacks: list[AttackRow]
    defenses: list[DefenseRow]


def board_of(entries: dict[str, Entry]) -> Board:
    """The standings of entries, by the stem of their files."""
    if not entries:
        return Board([], [])
    frame = board_frame(entries)
    rows = _rows(entries, frame)
    for group in _grouped(row for row in rows if row.entry.attack.role == "attack" and row.entry.scores.psnr).values():
        if len(group) > 1:
            for row, (rank, tied) in zip(group, ranks([_span(row) for row in group])):
                row.rank, row.tied = rank, tied
                row.by_range = any(other.range_level for other in group)
    role = {"oracle": 0, "attack": 1, "floor": 2}
    rows.sort(key=lambda row: (_place(row), row.group, role[row.entry.attack.role], -_psnr(row), row.stem))
    return Board(rows, _defenses(rows, frame))


def _rows(entries: dict[str, Entry], frame: pl.DataFrame) -> list[AttackRow]:
    scenarios = {
        stem: (e.source.scenario, _canonical({"hash": e.source.scenario_hash[:8]})) for stem, e in entries.items()
    }
    scenario_labels = distinguished(list(scenarios.values()))
    ordinary = [entry.threat_model for entry in entries.values() if entry.attack.role == "attack"]
    varying = [name for name in (ordinary[0] if ordinary else ()) if len({threat[name] for threat in ordinary}) > 1]
    parting = [name for name in _granted() if name in varying]
    found = []
    for row in frame.iter_rows(named=True):
        entry = entries[row["stem"]]
        setting = _canonical([row[name] for name in SETTING])
        threat = entry.threat_model
        found.append(
            AttackRow(
                stem=row["stem"],
                entry=entry,
                setting_label=row["setting_label"],
                attack_label=row["attack_label"],
                scenario_label=scenario_labels[scenarios[row["stem"]]],
                threat_label=_threat_label(threat, varying),
                setting_key=setting,
                defense_key=_canonical([row[name] for name in DEFENSE if name not in SETTING]),
                rivals=key_of([setting, {name: threat[name] for name in _granted()}]),
                rivals_label=_threat_label(threat, parting),
            )
        )
    return found


def _granted() -> list[str]:
    """The threat-model fields that part defenses."""
    names = (column.removeprefix("threat_") for column in THREAT)
    return [name for name in names if name not in (*_FOLLOWS_FROM_THE_CLIENTS, *_OF_THE_DEFENSE)]


def _threat_label(threat: dict[str, str], fields: list[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {threat[name]}" for name in fields)


def _defenses(rows: list[AttackRow], frame: pl.DataFrame) -> list[DefenseRow]:
    by_stem = {row.stem: row for row in rows}
    groups: dict[str, list[AttackRow]] = {}
    for row in rows:
        groups.setdefault(row.rivals, []).append(row)
    found = []
    for group in groups.values():
        here = frame.filter(pl.col("stem").is_in([row.stem for row in group]))
        members = [_defense(verdict, by_stem[verdict.best["stem"]], group) for verdict in verdicts(here)]
        _rank(members)
        found += members
    return sorted(found, key=_order)


def _defense(verdict: Verdict, strongest: AttackRow, group: list[AttackRow]) -> DefenseRow:
    attacks = [row for row in group if row.defense_key == strongest.defense_key and row.entry.attack.role == "attack"]
    costs = [strongest.entry.cost, *(row.entry.cost for row in attacks)]
    cost = next((cost for cost in costs if cost.utility is not None), costs[0])
    return DefenseRow(
        strongest,
        verdict,
        utility={"value": cost.utility, "low": cost.utility_low, "high": cost.utility_high},
        epsilon=next((cost.epsilon for cost in costs if cost.epsilon is not None), None),
        bytes_relative=next((cost.bytes_relative for cost in costs if cost.bytes_relative is not None), None),
        tried=len({row.attack_label for row in attacks if row.entry.scores.psnr is not None}),
    )


def _rank(members: list[DefenseRow]) -> None:
    """Rank the defenses of a group that are better than no defense, and say of the others how they stand."""
    plain = next((one for one in members if one.verdict.baseline), None)
    for one in members:
        one.standing = _standing(one, plain)
    rivals = [one for one in members if one.standing == _LOWER and one.verdict.kind != "leaks"]
    if plain is None:
        rivals = [one for one in members if one.verdict.kind != "leaks"]
    few = any(one.strongest.range_level for one in members)
    for one in members:
        one.by_range = few and one.standing == _LOWER
    if len(rivals) > 1:
        for one, (rank, tied) in zip(rivals, ranks([_mirrored(one.strongest) for one in rivals])):
            one.rank, one.tied, one.by_range, one.standing = rank, tied, few, ""


_LOWER = "lower than none"


def _standing(one: DefenseRow, plain: DefenseRow | None) -> str:
    """How a defense stands against no defense, by intervals or ranges; empty where there is nothing to compare with."""
    if one.verdict.baseline:
        return "undefended"
    if plain is None:
        return ""
    if plain.verdict.held:  # nothing was rebuilt that a defense could have stopped
        return "nothing to tell"
    if _below(one.strongest, plain.strongest):
        return _LOWER
    return "higher than none" if _below(plain.strongest, one.strongest) else "tied with none"


def _below(low: AttackRow, high: AttackRow) -> bool:
    top, bottom = _span(low)[1], _span(high)[0]
    return top is not None and bottom is not None and top < bottom


def _mirrored(row: AttackRow) -> Span:
    low, high = _span(row)
    return None if high is None else -high, None if low is None else -low


def _order(one: DefenseRow) -> tuple[Any, ...]:
    """Groups by setting; in each the undefended client first, then the defenses, the least rebuilt first."""
    setting = one.strongest.entry.setting
    where = one.strongest.setting_label, setting.batch_size, one.group
    return *where, not one.verdict.baseline, _psnr(one.strongest), one.key


def _grouped(rows: Iterable[AttackRow]) -> dict[str, list[AttackRow]]:
    found: dict[str, list[AttackRow]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def _place(row: AttackRow) -> tuple[str, int, bool, str]:
    """Settings by name and batch size; in each the undefended client first."""
    setting = row.entry.setting
    defended = any(part["name"] != "none" for part in row.entry.defense.parts)
    return row.setting_label, setting.batch_size, defended, row.entry.defense.label


def _span(row: AttackRow) -> Span:
    psnr = row.entry.scores.psnr
    return (None, None) if psnr is None else (psnr.low, psnr.high)


def _psnr(row: AttackRow) -> float:
    psnr = row.entry.scores.psnr
    return float("-inf") if psnr is None else psnr.value


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True)

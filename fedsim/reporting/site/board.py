"""The board of the public leaderboard: attacks by median, defenses by their worst case.

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
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from fedsim.files import key_of
from fedsim.reporting.entries.entry import Entry
from fedsim.reporting.leaderboard import DEFENSE, ROLES, SETTING, THREAT
from fedsim.reporting.naming import distinguished
from fedsim.reporting.site.attack_row import AttackRow
from fedsim.reporting.site.defense_row import DefenseRow, ranked
from fedsim.reporting.site.frame import board_frame
from fedsim.reporting.verdicts import Verdict, verdicts

_FOLLOWS_FROM_THE_CLIENTS = ("client_mode", "batch_norm")
"""Threat-model fields that are read off an observation: nobody grants them, so they do not part defenses."""
_OF_THE_DEFENSE = ("defense", "dropout_rate", "aggregation")
"""What an attacker may know of the defense, and what the defense lets it see: its worst case is over all of it."""


@dataclass(frozen=True)
class Board:
    """All rows, in the order in which a table first shows them."""

    attacks: list[AttackRow]
    defenses: list[DefenseRow]


def board_of(entries: dict[str, Entry]) -> Board:
    """The board of entries, by the stem of their files."""
    if not entries:
        return Board([], [])
    frame = board_frame(entries)
    rows = _rows(entries, frame)
    few = {row.group for row in rows if row.rank is not None and row.range_level}
    rows = [replace(row, by_range=row.rank is not None and row.group in few) for row in rows]
    rows.sort(key=lambda row: (_place(row), row.group, ROLES[row.entry.attack.role], -row.psnr, row.stem))
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
                defense_group=key_of([setting, {name: threat[name] for name in _granted()}]),
                defense_threat_label=_threat_label(threat, parting),
                rank=row["rank"],
                tied=row["tied"],
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
        groups.setdefault(row.defense_group, []).append(row)
    found = []
    for group in groups.values():
        here = frame.filter(pl.col("stem").is_in([row.stem for row in group]))
        found += ranked([_defense(verdict, by_stem[verdict.best["stem"]], group) for verdict in verdicts(here)])
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


def _order(one: DefenseRow) -> tuple[Any, ...]:
    """Groups by setting; in each the undefended client first, then the defenses, the least rebuilt first."""
    setting = one.strongest.entry.setting
    where = one.strongest.setting_label, setting.batch_size, one.group
    return *where, not one.verdict.baseline, one.strongest.psnr, one.key


def _place(row: AttackRow) -> tuple[str, int, bool, str]:
    """Settings by name and batch size; in each the undefended client first."""
    setting = row.entry.setting
    defended = any(part["name"] != "none" for part in row.entry.defense.parts)
    return row.setting_label, setting.batch_size, defended, row.entry.defense.label


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True)

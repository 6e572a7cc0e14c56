"""Entries as the rows of one leaderboard, so that what is said of a run is said of all entries by the same rules.

What an entry claims of itself is not repeated where it can be told from its parts: whether the attack was told of the
defense, and whether there is a defense at all.
"""

from __future__ import annotations

import json
import math
from typing import Any

import polars as pl

from fedsim.knowledge import told
from fedsim.reporting.entries.entry import Entry
from fedsim.reporting.entries.parts import Cost
from fedsim.reporting.leaderboard import (
    COLUMNS,
    DESCRIBED,
    THREAT,
    described,
    parts_without_none,
    ranked,
    takes_into_account,
)
from fedsim.reporting.naming import distinguished
from fedsim.reporting.settings import setting_labels

_ESTIMATES = ("psnr", "ssim", "lpips", "mask_accuracy", "leaked_psnr", "leaked_ssim", "bit_exact")
_COST = [name for name in Cost.model_fields if name not in ("epsilon", "of")]
_LONGEST_LABEL = 160
_VICTIMS = ("answered", "clients", "not_applicable", "failed", "reason", "stages")


def board_frame(entries: dict[str, Entry]) -> pl.DataFrame:
    """A row of `fedsim.reporting.leaderboard.COLUMNS` for each entry, and its `stem`.

    Settings and attacks are labelled, and attacks ranked, among all entries.
    """
    rows = {stem: _row(entry) for stem, entry in entries.items()}
    texts = {stem: described(*(row[name] for name in DESCRIBED)) for stem, row in rows.items()}
    settings = setting_labels(list(texts.values()))
    attacks = distinguished([(row["attack"], row["attack_params"]) for row in rows.values()])
    for stem, row in rows.items():
        row |= {
            "stem": stem,
            "setting_label": _short(settings[texts[stem]]),
            "attack_label": _short(attacks[row["attack"], row["attack_params"]]),
        }
    return ranked(pl.DataFrame(list(rows.values()), schema={**COLUMNS, "stem": pl.String}))


def _row(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    for name in _ESTIMATES:
        estimate = getattr(entry.scores, name)
        if estimate is not None:
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    row |= {name: getattr(entry.scores, name) for name in ("level", "chosen_psnr", "label_accuracy", "coverage")}
    row |= {name: getattr(entry.cost, name) for name in _COST}
    row |= {name: getattr(entry.victims, name) for name in _VICTIMS}
    row |= {column: entry.threat_model[column.removeprefix("threat_")] for column in THREAT}
    setting, parts = entry.setting, _text(entry.defense.parts)
    row |= {
        "role": entry.attack.role,
        "n": entry.victims.attacked,
        "epsilon": math.inf if entry.cost.epsilon == "infinite" else entry.cost.epsilon,
        "cost_of": None if entry.cost.of is None else _text(entry.cost.of),
        "setting": _text(setting.conditions),
        "dataset": setting.dataset,
        "model": setting.model,
        "setting_params": _text(setting.params),
        "batch_size": setting.batch_size,
        "local_steps": setting.local_steps,
        "update_kind": setting.update_kind,
        "dropout": entry.defense.dropout,
        "defense": entry.defense.label,
        "defense_label": entry.defense.label,
        "defense_params": parts,
        "defense_parts": parts_without_none(parts),
        "attack": entry.attack.name,
        "attack_params": _text(entry.attack.params),
    }
    per_unit = -(-entry.victims.attacked // max(1, entry.victims.clients))
    row["letter"], row["beyond"] = told(entry.attack.name, entry.threat_model, images=per_unit)
    return row | {"baseline": row["defense_parts"] == "[]", "informed": takes_into_account(row)}


def _short(label: str) -> str:
    """A label of a bearable length: what tells a stranger's settings apart may be a value of any size."""
    return label if len(label) <= _LONGEST_LABEL else f"{label[:_LONGEST_LABEL]}…"


def _text(content: Any) -> str:
    return json.dumps(content, sort_keys=True)

"""The entries of a run, with their pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from fedsim.reporting.entries import pictures as entry_pictures
from fedsim.reporting.entries.entry import FORMAT, Entry
from fedsim.reporting.entries.parts import (
    LONGEST,
    MOST_VALUES,
    Attack,
    Cost,
    Defense,
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

_ESTIMATES = ("psnr", "ssim", "lpips", "mask_accuracy", "leaked_psnr", "leaked_ssim", "bit_exact")


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

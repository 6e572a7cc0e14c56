"""What a chart shows of a board, whoever draws it: the strengths that were varied, the best defenses, who answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from fedsim.reporting.leaderboard import DEFENSE, Row, rows_of
from fedsim.scoring.summary import counted


def with_utility(board: pl.DataFrame) -> list[tuple[float, Row]]:
    """The rows of a board whose utility was measured, each with it."""
    return [(row["utility"], row) for row in rows_of(board) if row["utility"] is not None]


def frontier(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (utility, leak) pairs that no other pair beats: more utility, or less leak, and neither worse."""
    kept: list[tuple[float, float]] = []
    for utility, leak in sorted(set(points), key=lambda point: (-point[0], point[1])):
        if not kept or leak < kept[-1][1]:
            kept.append((utility, leak))
    return kept[::-1]


def of_answering(rows: pl.DataFrame) -> pl.DataFrame:
    """Every image that was attacked, with a score, of the attacks that have answered any under a defense."""
    scored = counted(rows).filter(~pl.col("development") & pl.col("psnr").is_not_null())
    return scored.filter(pl.col("answered").any().over([*DEFENSE, "attack_label"]))


Strength = list[tuple[float, Row]]
"""Rows of a board, each with the strength of its defense."""


def strengths(rows: list[Row]) -> Iterator[tuple[str, Strength]]:
    parts = [[part for part in json.loads(row["defense_params"]) if part["name"] != "none"] for row in rows]
    plain = [(row["dropout"] or 0.0, row) for row, own in zip(rows, parts) if {p["name"] for p in own} <= {"dropout"}]
    sweeps: dict[str, Strength] = {"dropout rate": plain}
    for row, own in zip(rows, parts):
        for at, part in enumerate(own):
            for key, value in part.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and part["name"] != "dropout":
                    rest = [{k: v for k, v in p.items() if (i, k) != (at, key)} for i, p in enumerate(own)]
                    others = [_described(p) for i, p in enumerate(rest) if i != at]
                    fixed = {k: v for k, v in rest[at].items() if k != "name" and v is not None}
                    where = _described({"name": part["name"], **fixed})
                    axis = f"{key} of {' + '.join([where, *others])}"
                    sweeps.setdefault(axis, []).append((float(value), row))
    for row, own in zip(rows, parts):
        if row["epsilon"] is not None:
            sweeps.setdefault(f"ε of {' + '.join(p['name'] for p in own)}", []).append((row["epsilon"], row))
    for axis, values in sweeps.items():
        finite = [(value, row) for value, row in values if np.isfinite(value)]
        if len({value for value, _ in finite}) > 1:
            yield axis, finite


def _described(part: dict[str, Any]) -> str:
    params = ", ".join(f"{key}={value}" for key, value in part.items() if key != "name")
    return f"{part['name']} ({params})" if params else str(part["name"])

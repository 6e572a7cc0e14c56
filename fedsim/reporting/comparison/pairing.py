"""Which victims of two sides are the same, and what besides tells the two sides apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fedsim.errors import BadInput
from fedsim.reporting import formats as f
from fedsim.reporting.leaderboard import THREAT, labelled
from fedsim.scoring.summary import counted

Pictures = Callable[[str], tuple[np.ndarray, np.ndarray]]
"""The originals and reconstructions of a job: `fedsim.api.Run.pictures`."""

VICTIM = ["seed", "round", "client", "sample"]
SAME = ["defense_parts", "dropout", "dataset", "model"]
"""What both sides of a comparison have in common besides their setting."""


@dataclass(frozen=True)
class Side:
    """One side: its name, its result rows, where its pictures are, and which attack it is of; None: each."""

    name: str
    results: pl.DataFrame
    pictures: Pictures
    attack: str | None = None


@dataclass(frozen=True)
class Pairs:
    """The rows that both sides have, those of B in columns that end with `_b`.

    Args:
        differing: what the two sides do not share, as `key: A against B`.
        remarks: what could not be paired.
    """

    rows: pl.DataFrame
    differing: list[str]
    remarks: list[str]


def paired(a: Side, b: Side) -> Pairs:
    """The victims that both sides attacked, each with its scores on either side.

    Raises:
        fedsim.errors.BadInput: there are none, or an attack of several variants cannot be paired with another.
    """
    left, right, differing = _in_one_setting(_scored(a), _scored(b))
    left, right = _sided(left, right, named=a.attack != b.attack)
    keys = ["setting", *SAME, "attack_side", *VICTIM]
    for side, rows in ((a, left), (b, right)):
        if rows.select(keys).is_duplicated().any():
            raise BadInput(f"{side.name}: was run with several parameters or grants; compare runs of one each")
    rows = left.join(right, on=keys, how="inner", nulls_equal=True, suffix="_b", maintain_order="left")
    if rows.is_empty():
        raise BadInput(f"compare: {a.name} and {b.name} have no victim in common: {_why_not(left, right)}")
    differing += _told_otherwise(rows, parameters=a.attack == b.attack)
    rows, remarks = _of_one_image(rows, a, b)
    if rows.is_empty():
        raise BadInput(f"compare: {a.name} and {b.name} have no victim in common: {'; '.join(remarks)}")
    return Pairs(rows, differing, remarks)


def _scored(side: Side) -> pl.DataFrame:
    if side.results.is_empty():
        raise BadInput(f"{side.name}: has no results to compare")
    rows = counted(labelled(side.results).filter(~pl.col("development")))
    if side.attack is not None:
        known = sorted(rows["attack"].unique())
        rows = rows.filter(attack=side.attack)
        if rows.is_empty():
            raise BadInput(f"{side.name}: has no attack {side.attack}; there are {', '.join(known)}")
    return rows


def _in_one_setting(left: pl.DataFrame, right: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """Settings that are equal are compared with one another; two that differ only if neither side has another."""
    mine, theirs = (sorted(rows["setting"].unique()) for rows in (left, right))
    if set(mine) & set(theirs) or len(mine) != 1 or len(theirs) != 1:
        return left, right, []
    one, other = (dict(_flat(json.loads(text))) for text in (mine[0], theirs[0]))
    differing = [
        _against(key, one.get(key), other.get(key))
        for key in dict.fromkeys((*one, *other))
        if one.get(key) != other.get(key)
    ]
    return left, right.with_columns(setting=pl.lit(mine[0])), differing


def _sided(left: pl.DataFrame, right: pl.DataFrame, *, named: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both sides with a column `attack_side`, by which their attacks are paired: the name, and where an attack was run
    with several parameters or grants these too. Two attacks that are named are paired whatever they are called."""
    variant = pl.struct("attack_params", *THREAT)
    several = {
        attack
        for rows in (left, right)
        for attack, number in rows.group_by("setting", *SAME, "attack")
        .agg(variant.n_unique().alias("variants"))
        .select("attack", "variants")
        .iter_rows()
        if number > 1
    }
    apart = pl.struct(*THREAT) if named else variant
    name = pl.lit("") if named else pl.col("attack")
    side = pl.when(pl.col("attack").is_in(several)).then(name + apart.struct.json_encode()).otherwise(name)
    return left.with_columns(attack_side=side), right.with_columns(attack_side=side)


def _told_otherwise(pairs: pl.DataFrame, *, parameters: bool) -> list[str]:
    """What the attacks of the two sides were told or given otherwise."""
    found: dict[str, None] = {}
    for name in THREAT:
        for one, other in pairs.select(name, f"{name}_b").unique(maintain_order=True).iter_rows():
            if one != other:
                found[_against(name.replace("threat_", "threat_model."), one, other)] = None
    if parameters:
        for attack, *texts in pairs.select("attack", "attack_params", "attack_params_b").unique().sort("attack").rows():
            one, other = (json.loads(text) for text in texts)
            for key in dict.fromkeys((*one, *other)):
                if one.get(key) != other.get(key):
                    found[_against(f"{attack}.{key}", one.get(key), other.get(key))] = None
    return list(found)


def _against(key: str, one: object, other: object) -> str:
    return f"{key}: {json.dumps(one)} against {json.dumps(other)}"


def _flat(block: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in block.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _why_not(left: pl.DataFrame, right: pl.DataFrame) -> str:
    for column, what in (("setting", "settings"), ("attack_side", "attacks"), ("defense_parts", "defenses")):
        if not set(left[column]) & set(right[column]):
            return f"their {what} differ"
    return "their defenses, seeds or clients differ"


def _of_one_image(pairs: pl.DataFrame, a: Side, b: Side) -> tuple[pl.DataFrame, list[str]]:
    """The pairs whose originals are equal or unknown; and how many others there were."""
    mine, theirs = _Originals(a.pictures), _Originals(b.pictures)
    verdicts = []
    for job, at, job_b, at_b in pairs.select("job", "picture", "job_b", "picture_b").iter_rows():
        one, other = mine.of(job, at), theirs.of(job_b, at_b)
        verdicts.append("unseen" if one is None or other is None else "same" if np.array_equal(one, other) else "other")
    found, remarks = Counter(verdicts), []
    if found["other"]:
        remarks.append(f"{f.images(found['other'])} left out: other images in A than in B (other data or salt)")
    if found["unseen"]:
        remarks.append(f"{f.images(found['unseen'])} without pictures: that both sides have the same could not be seen")
    return pairs.filter(pl.Series([verdict != "other" for verdict in verdicts])), remarks


class _Originals:
    """The original of a row, or None where its job kept no picture."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._known: dict[str, np.ndarray | None] = {}

    def of(self, job: str | None, at: int | None) -> np.ndarray | None:
        if job is None or at is None:
            return None
        if job not in self._known:
            try:
                self._known[job] = self._pictures(job)[0]
            except FileNotFoundError:
                self._known[job] = None
        stack = self._known[job]
        return None if stack is None or at >= len(stack) else stack[at]

"""What the rows of a leaderboard are called: setting, defense and attack, each with what tells it from others."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from itertools import starmap
from typing import Any

import polars as pl

import attacks
from attacks import ThreatModel
from attacks.threat import GRANTS
from fedsim.reporting.leaderboard.columns import DEFENSE, DESCRIBED, OBSERVED, ROW, THREAT
from fedsim.reporting.naming import defense_label, distinguished, is_floor, needed_for
from fedsim.reporting.settings import setting_labels


def labelled(results: pl.DataFrame) -> pl.DataFrame:
    """The results, each row once and in their order, with its role and the labels by which reports name it."""
    rows = _threat_of_failed(results).with_columns(
        setting_params=pl.col("model_params").map_elements(cache(_without_dropout), return_dtype=pl.String),
        defense_parts=pl.col("defense_params").map_elements(cache(parts_without_none), return_dtype=pl.String),
        setting=pl.col("setting").fill_null("{}"),
        development=pl.col("development").fill_null(value=False),
    )
    rows = rows.with_columns(baseline=pl.col("defense_parts") == "[]")
    identity = [*ROW, "seed", "round", "client", "sample"]
    rows = _guesses_once(rows.unique(identity, keep="first", maintain_order=True), identity)
    grants = _grants_that_vary(rows)
    told = _each(rows, ["attack", *grants], partial(_grants_text, grants))
    return rows.with_columns(
        setting_label=_setting_labels(rows),
        defense_label=_defense_labels(rows),
        informed=_each(rows, ["attack", "defense_parts", *THREAT], _informed, pl.Boolean),
        stage=_each(rows, ["attack", "details"], _stage),
        attack_label=_named(rows, "attack", "attack_params")
        + pl.Series([f" [{words}]" if words else "" for words in told], dtype=pl.String),
        told=told,
        role=pl.when(pl.col("attack").is_in([name for name in rows["attack"].unique() if is_floor(name)]))
        .then(pl.lit("floor"))
        .when("oracle")
        .then(pl.lit("oracle"))
        .otherwise(pl.lit("attack")),
    )


def _guesses_once(rows: pl.DataFrame, identity: list[str]) -> pl.DataFrame:
    """Without the rows of a guess that differ from others only in what its attacker was granted and makes no use of."""
    twice = pl.lit(value=False)
    for name in filter(is_floor, rows["attack"].unique().sort()):
        told = [column for column in identity if column not in _unused(name)]
        twice |= (pl.col("attack") == name) & ~pl.struct(told).is_first_distinct()
    return rows.filter(~twice)


def _unused(attack: str) -> frozenset[str]:
    """The columns of grants that a guess makes no use of; none of any other attack: there it is said who was told."""
    if not is_floor(attack):
        return frozenset()
    return frozenset(f"threat_{grant}" for grant in {*GRANTS} - attacks.get(attack).uses())


def _stage(attack: str, details: str | None) -> str | None:
    """Which other attack answered in the place of this one."""
    stage = json.loads(details or "{}").get("stage")
    return stage if isinstance(stage, str) and stage != attack else None


def _threat_of_failed(results: pl.DataFrame) -> pl.DataFrame:
    """Give failed rows the observed threat-model fields of the setting's other rows: they belong to the same entry."""
    seen = results.filter(pl.col("status") != "failed")
    if seen.is_empty() or len(seen) == len(results):
        return results
    on = ["dataset", "model", "defense", "attack", *(name for name in THREAT if name not in OBSERVED)]
    known = seen.group_by(on).agg(pl.col(name).first().alias(f"{name}_seen") for name in OBSERVED)
    joined = results.join(known, on=on, how="left", nulls_equal=True, maintain_order="left")
    failed = pl.col("status") == "failed"
    return joined.with_columns(
        pl.when(failed).then(pl.coalesce(f"{name}_seen", name)).otherwise(name).alias(name) for name in OBSERVED
    ).select(results.columns)


def parts_without_none(params: str) -> str:
    """A defense's parts without `none`, which is no part: verdicts read parameters, never labels."""
    return json.dumps([part for part in json.loads(params) if part["name"] != "none"], sort_keys=True)


def takes_into_account(row: dict[str, Any]) -> bool:
    """Whether the attack takes every part of the defense into account, and was told what it needs for that."""
    return all(
        (grant := needed_for(row["attack"], part["name"])) is not False
        and (grant is None or row[f"threat_{grant}"] == "known")
        for part in json.loads(row["defense_parts"])
    )


def _informed(attack: str, parts: str, *threat: str | None) -> bool:
    return takes_into_account({"attack": attack, "defense_parts": parts} | dict(zip(THREAT, threat)))


def _defense_labels(rows: pl.DataFrame) -> pl.Series:
    """What a defense is called: by the first label of its parameters, so that equal parameters have one name."""
    first: dict[tuple[object, ...], str] = {}
    labels = []
    for *key, label in rows.select(*DEFENSE, "defense").iter_rows():
        dropout = key[DEFENSE.index("dropout")]
        labels.append(first.setdefault(tuple(key), defense_label(label, dropout)))
    return pl.Series(labels, dtype=pl.String)


def _without_dropout(params: str) -> str:
    """A model's parameters without its dropout rate, which is the defense's business."""
    return json.dumps({key: value for key, value in json.loads(params).items() if key != "dropout"}, sort_keys=True)


def _named(rows: pl.DataFrame, name: str, params: str) -> pl.Series:
    pairs = list(rows.select(name, params).iter_rows())
    labels = distinguished(pairs)
    return pl.Series([labels[pair] for pair in pairs], dtype=pl.String)


def _each(
    rows: pl.DataFrame, columns: list[str], label: Callable[..., object], dtype: type[pl.DataType] = pl.String
) -> pl.Series:
    """A label for each row, made once for all rows that are alike in these columns: a run has many more rows."""
    values = rows.select(columns).iter_rows() if columns else ((),) * len(rows)
    return pl.Series([*starmap(cache(label), values)], dtype=dtype)


def _grants_that_vary(rows: pl.DataFrame) -> list[str]:
    """The threat-model fields that tell apart entries of one attack on one model under one defense."""
    entry = [*DEFENSE, "attack", "attack_params"]
    counts = rows.group_by(entry).agg(pl.col(THREAT).n_unique())
    return [name for name in THREAT if (counts[name] > 1).any()]


_TOLD = {
    "batch_order known": "knows the order of epochs",
    "noise known": "knows what was drawn",
    "labels inferred": "infers labels",
    "labels unknown": "without labels",
    "auxiliary_data public": "has public images",
    "server malicious": "malicious server",
}


def _grants_text(fields: list[str], attack: str, *values: str) -> str:
    """`knows the defense`: where the threat model differs from the usual one, and the attack may make use of it."""
    usual, unused = ThreatModel().as_dict(), _unused(attack)
    said = [
        _TOLD.get(f"{name} {value}") or _in_words(name, value)
        for name, value in ((f.removeprefix("threat_"), v) for f, v in zip(fields, values) if f not in unused)
        if value is not None and value != usual[name]
    ]
    return ", ".join(said)


def _in_words(name: str, value: str) -> str:
    what = name.replace("_", " ")
    if value in ("known", "unknown"):
        return f"knows the {what}" if value == "known" else f"not told the {what}"
    return f"{what} {value.replace('_', ' ')}"


def _setting_labels(rows: pl.DataFrame) -> pl.Series:
    """`mnist · mlp`, and what else tells the settings apart."""
    texts = _each(rows, DESCRIBED, described).to_list()
    labels = setting_labels(texts)
    return pl.Series([labels[text] for text in texts], dtype=pl.String)


def described(setting: str, dataset: str, model: str, params: str, batch: int, steps: int, kind: str | None) -> str:
    """The setting as JSON; the columns beside it stand in where rows were made without one."""
    block = json.loads(setting)
    if not block:
        own = json.loads(params)
        start = {key: own.pop(key) for key in ("pretrain", "checkpoint") if key in own}
        local = {"batch_size": batch, "steps": steps, "share": "weights" if kind == "delta" else kind}
        block = {"data": {"name": dataset}, "model": {"name": model, **own}, "federation": {"local": local}}
        block |= {"start": start} if start else {}
    return json.dumps(block, sort_keys=True)

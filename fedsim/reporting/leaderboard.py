"""The leaderboard: how well each attack did on each model under each defense, and which attacks beat which.

Rows are pooled only if they differ in nothing but seed, client and sample. Attacks are ranked among those that were
granted the same, in the same setting under the same defense, by their median PSNR over every image that was attacked.
An attack's rank is one more than the number of attacks that clearly beat it: whose interval lies wholly above its own.
Attacks with overlapping intervals therefore tie. Below six clients no interval of a median has 95 %: then it is the
range, and says its level. Oracles (given what no real server has) and floors (the null attacks) stand in the table
without a rank, and so does an attack that has no rival.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl

from attacks import ThreatModel
from fedsim.reporting import formats as f
from fedsim.reporting.naming import defense_label, distinguished, is_floor, needed_for
from fedsim.reporting.ranking import ranks
from fedsim.reporting.settings import setting_labels
from fedsim.scoring import intervals
from fedsim.scoring.summary import BESIDE, RATES, answered, summarise
from fedsim.table import SCHEMA

THREAT = [name for name in SCHEMA if name.startswith("threat_")]
_OBSERVED = ["threat_client_mode", "threat_batch_norm", "threat_aggregation"]
"""Threat-model fields that are read off an observation; a client that sent none has only defaults there."""

SETTING = ["setting", "dataset", "model", "setting_params", "batch_size", "local_steps"]
"""`setting` holds everything that can change a result; the others are parts of it that tables show."""
DEFENSE = [*SETTING, "update_kind", "dropout", "defense_parts"]
DESCRIBED = [*SETTING, "update_kind"]
_RANKED_AMONG = [*DEFENSE, *THREAT]
ROW = [*_RANKED_AMONG, "attack", "attack_params"]

_MEDIANS = ["psnr", "ssim", "lpips", "mask_accuracy"]
_LABELS = ["setting_label", "defense_label", "attack_label"]
_OF_THE_ROW = [*_LABELS, "role", "letter", "beyond", "baseline", "informed", "defense", "defense_params"]
_INTERVALS = [name for value in (*_MEDIANS, *RATES) for name in (value, f"{value}_low", f"{value}_high")]
COLUMNS: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(_LABELS, pl.String),
    "role": pl.String,  # attack | oracle | floor
    "letter": pl.String,  # of the threat model, A to G, as far as the attack uses what it was told
    "beyond": pl.String,  # what of that no real server has; empty: feasible
    "baseline": pl.Boolean,  # the undefended client: no defense, and dropout at the model's own rate
    "informed": pl.Boolean,  # the attack was told of every part of the defense, and takes it into account
    "rank": pl.Int64,
    "tied": pl.Boolean,
    **dict.fromkeys(_INTERVALS, pl.Float64),  # medians and rates, with the ends of their intervals
    **dict.fromkeys(BESIDE, pl.Float64),  # medians: to the image itself and to what was made of it, where that differs
    "level": pl.Float64,  # of the medians' intervals: 0.95, or less where there are fewer than 6 clients
    "chosen_psnr": pl.Float64,  # median PSNR on development victims, by which the strongest attack is chosen
    "label_accuracy": pl.Float64,  # of the labels that the attack inferred, each matched to its image
    "iterations": pl.Float64,  # median
    "at_budget": pl.Float64,  # share of its answers that stopped at the budget of iterations
    "seconds": pl.Float64,  # median, per victim
    "utility": pl.Float64,  # mean over the seeds
    "utility_low": pl.Float64,  # over seeds and test images
    "utility_high": pl.Float64,
    "utility_seeds": pl.Int64,  # how many seeds; of one the interval is over test images alone
    "utility_reachable": pl.Float64,  # what the undefended model reaches
    "bytes": pl.Float64,  # that a client sends, median
    "bytes_relative": pl.Float64,  # over those of the undefended client in this setting
    "cost_of": pl.String,  # JSON: the training that utility and epsilon are of
    "epsilon": pl.Float64,  # the largest of the seeds'
    "epsilon_prv": pl.Float64,  # likewise; null where there is none
    "delta": pl.Float64,
    "n": pl.Int64,  # images attacked
    "answered": pl.Int64,  # images that there is an answer to; the others count with the floor's score
    "coverage": pl.Float64,  # answered over attacked
    "clients": pl.Int64,  # independent units
    "not_applicable": pl.Int64,
    "failed": pl.Int64,
    "reason": pl.String,  # the commonest one, of the failures if there are any
    "stages": pl.String,  # which stages of a cascade answered: `patch_embedding (4 images)`
    **{name: SCHEMA.get(name, pl.String) for name in ROW},
    "defense": pl.String,
    "defense_params": pl.String,
}


def build(results: pl.DataFrame) -> pl.DataFrame:
    """Summarise results into one row per dataset, model, defense, threat model and attack; columns are `COLUMNS`.

    Args:
        results: rows of `fedsim.table.SCHEMA`, of one run or of several. Work that two runs share counts once.
    """
    if results.is_empty():
        return pl.DataFrame(schema=COLUMNS)
    rows = labelled(results)
    reported = rows.filter(~pl.col("development"))
    summary = summarise(reported, by=ROW, values=[*_MEDIANS, *BESIDE])
    answers = pl.col("answered")
    cells = pl.col("cell").is_first_distinct()
    board = (
        reported.with_columns(answered().alias("answered"))
        .group_by(ROW, maintain_order=True)
        .agg(
            *(pl.col(name).first() for name in _OF_THE_ROW),
            pl.col("label_correct").filter(answers).mean().alias("label_accuracy"),
            *(pl.col(name).filter(answers).median() for name in ("iterations", "seconds")),
            (pl.col("stopped").drop_nulls() == "budget").mean().alias("at_budget"),
            pl.col("utility").filter(cells).mean(),
            pl.col("utility").filter(cells).drop_nulls().alias("_utilities"),
            pl.col("utility").filter(cells).count().alias("utility_seeds"),
            pl.col("utility_images").first(),
            pl.col("utility_reachable").filter(cells).mean(),
            pl.col("cost_of").drop_nulls().first(),
            pl.col("epsilon").max(),
            pl.when(pl.col("epsilon_prv").is_not_null().all()).then(pl.col("epsilon_prv").max()),
            pl.col("bytes").median(),
            pl.col("delta").max(),
            pl.coalesce(_commonest_reason("failed"), _commonest_reason("not_applicable")).alias("reason"),
            pl.col("stage").filter(answers).drop_nulls().alias("stages"),
        )
        .with_columns(pl.col("stages").map_elements(_counted, return_dtype=pl.String))
        .join(summary, on=ROW, how="left", nulls_equal=True, maintain_order="left")
        .join(_chosen(rows), on=ROW, how="left", nulls_equal=True, maintain_order="left")
    )
    spans = [
        intervals.of_accuracy(accuracies, images)
        for accuracies, images in board.select("_utilities", "utility_images").iter_rows()
    ]
    board = board.with_columns(
        utility_low=pl.Series([low for low, _ in spans], dtype=pl.Float64),
        utility_high=pl.Series([high for _, high in spans], dtype=pl.Float64),
    )
    return _ranked(_with_relative(board)).select(pl.col(name).cast(dtype) for name, dtype in COLUMNS.items())


def _with_relative(board: pl.DataFrame) -> pl.DataFrame:
    """The bytes over those of the undefended client of the same setting; null where that was not attacked."""
    plain = board.filter("baseline").group_by(SETTING).agg(pl.col("bytes").median().alias("_plain"))
    joined = board.join(plain, on=SETTING, how="left", nulls_equal=True, maintain_order="left")
    return joined.with_columns(bytes_relative=pl.col("bytes") / pl.col("_plain"))


def _chosen(rows: pl.DataFrame) -> pl.DataFrame:
    """Each row's median PSNR on development victims, from which no other number comes."""
    development = rows.filter("development")
    return summarise(development, by=ROW, values=["psnr"]).select(*ROW, pl.col("psnr").alias("chosen_psnr"))


def strongest(board: pl.DataFrame, *, among: pl.Expr | None = None) -> pl.DataFrame:
    """The strongest attack in each setting under each defense; no oracle, no floor.

    It is chosen on development victims where there are any, else on the very victims that it is reported on
    (`chosen_psnr` is then null), by the median PSNR over all images that were attacked.

    Args:
        among: of which rows; all if None.
    """
    rivals = board.filter((pl.col("role") == "attack") & pl.col("psnr").is_not_null())
    rivals = rivals if among is None else rivals.filter(among)
    by = pl.coalesce("chosen_psnr", "psnr")
    return rivals.filter(by.rank("ordinal", descending=True).over(DEFENSE) == 1)


def _counted(stages: pl.Series) -> str | None:
    """`cut (3 images), first_linear (1 image)`, the commonest first; None where there are none."""
    counts = stages.value_counts(sort=True).sort("count", stages.name, descending=[True, False])
    return ", ".join(f"{stage} ({f.images(count)})" for stage, count in counts.iter_rows()) or None


def _stage(attack: str, details: str | None) -> str | None:
    """Which other attack answered in the place of this one."""
    stage = json.loads(details or "{}").get("stage")
    return stage if isinstance(stage, str) and stage != attack else None


def _commonest_reason(status: str) -> pl.Expr:
    return pl.col("reason").filter(pl.col("status") == status).drop_nulls().mode().sort().first()


def labelled(results: pl.DataFrame) -> pl.DataFrame:
    """The results, each row once and in their order, with its role and the labels by which reports name it."""
    rows = _threat_of_failed(results).with_columns(
        setting_params=pl.col("model_params").map_elements(_without_dropout, return_dtype=pl.String),
        defense_parts=pl.col("defense_params").map_elements(parts_without_none, return_dtype=pl.String),
        setting=pl.col("setting").fill_null("{}"),
        development=pl.col("development").fill_null(value=False),
    )
    rows = rows.with_columns(baseline=pl.col("defense_parts") == "[]")
    identity = [*ROW, "seed", "round", "client", "sample"]
    rows = rows.unique(identity, keep="first", maintain_order=True)
    grants = _grants_that_vary(rows)
    return rows.with_columns(
        setting_label=_setting_labels(rows),
        defense_label=_defense_labels(rows),
        informed=pl.Series(
            [takes_into_account(row) for row in rows.select("attack", "defense_parts", *THREAT).to_dicts()]
        ),
        stage=_each(rows, ["attack", "details"], _stage),
        attack_label=_named(rows, "attack", "attack_params") + _each(rows, grants, partial(_grants_text, grants)),
        role=pl.when(pl.col("attack").is_in([name for name in rows["attack"].unique() if is_floor(name)]))
        .then(pl.lit("floor"))
        .when("oracle")
        .then(pl.lit("oracle"))
        .otherwise(pl.lit("attack")),
    )


def _ranked(board: pl.DataFrame) -> pl.DataFrame:
    """Ranks and order: settings and defenses as they came, then the oracles, the attacks best first, the floors."""
    places: list[int | None] = [None] * len(board)
    tied = [False] * len(board)
    rivals = board.with_row_index("at").filter((pl.col("role") == "attack") & pl.col("psnr").is_not_null())
    for _, group in rivals.group_by(_RANKED_AMONG):
        if len(group) == 1:  # nobody is first of one
            continue
        for at, found in zip(group["at"], ranks(group.select("psnr_low", "psnr_high").rows())):
            places[at], tied[at] = found
    order = {"oracle": 0, "attack": 1, "floor": 2}
    return (
        board.with_columns(
            rank=pl.Series(places, dtype=pl.Int64),
            tied=pl.Series(tied, dtype=pl.Boolean),
            _setting=_order_of_appearance(board, SETTING),
            _defense=_order_of_appearance(board, DEFENSE),
            _role=pl.col("role").replace_strict(order, return_dtype=pl.Int64),
            _score=-pl.col("psnr"),
        )
        .sort("_setting", "_defense", "_role", "_score", nulls_last=True, maintain_order=True)
    )  # fmt: skip


def _order_of_appearance(frame: pl.DataFrame, columns: list[str]) -> pl.Series:
    """For each row the place at which its combination of values first appeared."""
    places: dict[tuple[object, ...], int] = {}
    return pl.Series([places.setdefault(key, len(places)) for key in frame.select(columns).iter_rows()], dtype=pl.Int64)


def _threat_of_failed(results: pl.DataFrame) -> pl.DataFrame:
    """Give failed rows the observed threat-model fields of the setting's other rows: they belong to the same entry."""
    seen = results.filter(pl.col("status") != "failed")
    if seen.is_empty() or len(seen) == len(results):
        return results
    on = ["dataset", "model", "defense", "attack", *(name for name in THREAT if name not in _OBSERVED)]
    known = seen.group_by(on).agg(pl.col(name).first().alias(f"{name}_seen") for name in _OBSERVED)
    joined = results.join(known, on=on, how="left", nulls_equal=True, maintain_order="left")
    failed = pl.col("status") == "failed"
    return joined.with_columns(
        pl.when(failed).then(pl.coalesce(f"{name}_seen", name)).otherwise(name).alias(name) for name in _OBSERVED
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


def _each(rows: pl.DataFrame, columns: list[str], label: Callable[..., str | None]) -> pl.Series:
    values = rows.select(columns).iter_rows() if columns else ((),) * len(rows)
    return pl.Series([label(*row) for row in values], dtype=pl.String)


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


def _grants_text(fields: list[str], *values: str) -> str:
    """` [knows the defense]`: where the threat model differs from the usual one."""
    usual = ThreatModel().as_dict()
    said = [
        _TOLD.get(f"{name} {value}") or _in_words(name, value)
        for name, value in ((field.removeprefix("threat_"), value) for field, value in zip(fields, values))
        if value is not None and value != usual[name]
    ]
    return f" [{', '.join(said)}]" if said else ""


def _in_words(name: str, value: str) -> str:
    what = name.replace("_", " ")
    if value in ("known", "unknown"):
        return f"knows the {what}" if value == "known" else f"not told the {what}"
    return f"{what} {value.replace('_', ' ')}"


def _setting_labels(rows: pl.DataFrame) -> pl.Series:
    """`mnist · mlp`, and what else tells the settings apart."""
    texts = [described(*values) for values in rows.select(DESCRIBED).iter_rows()]
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

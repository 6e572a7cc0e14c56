"""From one row per image to one row per group: medians and rates over every image that was attacked, with intervals.

Where an attack declined, failed or returned fewer images than there were, the image was not rebuilt, and its score is
the floor's: that of the mean public image, which anybody could have answered. So an attack gains nothing by answering
only where it is sure. `coverage` says for how many images there was an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from attacks.observation import SUM
from fedsim.scoring import intervals
from fedsim.table import PSNR_CAP_SUMMARY

RATES = ("leaked_ssim", "leaked_psnr", "bit_exact", "identified", "identified_features")
WORST = {"mse": 1.0, "psnr": 0.0, "ssim": 0.0, "lpips": 1.0}
"""The scores of an image that nobody, not even the floor, has an answer for."""
SCORES = tuple(WORST)

BESIDE = ("psnr_original", "psnr_trained")
"""Scores against other pictures of an image, of defenses that make some; an image without an answer has the floor's."""

_FLOOR = "null_mean"
_IMAGE = ["seed", "round", "client", "sample"]
_SAME = (["cell"], ["run", "scenario", "setting", "defense_params"])
"""What images of these numbers are of: a federation; or the honest one beside that of a malicious server, whose clients
train on the same images."""
UNIT = ["seed", "client"]
"""The independent units of rows that went through `units`."""


def answered() -> pl.Expr:
    """Whether a row holds an answer to its image."""
    return (pl.col("status") == "ok") & pl.any_horizontal(pl.col(name).is_not_null() for name in SCORES)


def counted(results: pl.DataFrame) -> pl.DataFrame:
    """The rows of the images that were attacked, each with a score, PSNR capped at 100 dB; and a column `answered`.

    Rows of clients whose update the server never received are left out: nobody attacked them. A metric that no row has
    stays null.

    Args:
        results: rows of `fedsim.table.SCHEMA`, those of the floor `null_mean` among them.
    """
    rows = results.filter(pl.col("observed").fill_null(value=True)).with_columns(answered().alias("answered"))
    guessed = rows.filter((pl.col("attack") == _FLOOR) & pl.col("answered"))
    both = (*SCORES, *BESIDE)
    for at, same in enumerate(_SAME):
        floors = guessed.unique([*same, *_IMAGE], keep="first")
        floors = floors.select(*same, *_IMAGE, *(pl.col(name).alias(f"_floor_{at}_{name}") for name in both))
        rows = rows.join(floors, on=[*same, *_IMAGE], how="left", nulls_equal=True, maintain_order="left")
    rows = rows.with_columns(
        pl.coalesce(f"_floor_{at}_{name}" for at in range(len(_SAME))).alias(f"_floor_{name}") for name in both
    )
    measured = [name for name in SCORES if results[name].is_not_null().any()]
    missing = ~pl.col("answered")
    scored = rows.with_columns(
        *(
            pl.when(missing).then(pl.coalesce(f"_floor_{name}", pl.lit(WORST[name]))).otherwise(name).alias(name)
            for name in measured
        ),
        *(pl.when(missing).then(f"_floor_{name}").otherwise(name).alias(name) for name in BESIDE),
        *(pl.when(missing).then(pl.lit(value=False)).otherwise(name).alias(name) for name in RATES),
    )
    capped = pl.col("psnr", *BESIDE).clip(upper_bound=PSNR_CAP_SUMMARY)
    return scored.with_columns(capped).select(*results.columns, "answered")


def summarise(results: pl.DataFrame, by: Sequence[str], values: Sequence[str] = SCORES) -> pl.DataFrame:
    """One row for each combination of the columns `by`, in order of first appearance.

    Args:
        results: the results table.
        by: the columns that make a group, e.g. `["attack", "defense"]`.
        values: numeric columns of which to take the median.

    Returns:
        The columns `by`; the images `n` that were attacked, and of them those `answered`, `not_applicable` and
        `failed`; `coverage`, answered over attacked; `clients`, the independent units; `level`, that of the medians'
        intervals: see `fedsim.scoring.intervals`.
        For each of `values` the median over clients of a client's median image, `<value>`, and its interval
        `<value>_low`, `<value>_high`, null for one client.
        For each of `RATES` the share of images `<rate>`, and its 95 % interval `<rate>_low`, `<rate>_high`.
        Of a group in which nothing was answered there is no score, only the counts.
    """
    columns = {name: results.schema[name] for name in by}
    schema: dict[str, Any] = columns | dict.fromkeys(
        ("n", "answered", "not_applicable", "failed", "clients"), pl.Int64
    )
    schema |= dict.fromkeys(("coverage", "level"), pl.Float64)
    for name in (*values, *RATES):
        schema |= dict.fromkeys((name, f"{name}_low", f"{name}_high"), pl.Float64)
    everything = counted(results)
    unseen = results.filter(~pl.col("observed").fill_null(value=True))
    rows: dict[tuple[object, ...], dict[str, object]] = {}
    for key, group in everything.group_by(by, maintain_order=True):
        rows[key] = dict(zip(by, key)) | _summary(group, values)
    for key, _ in unseen.group_by(by, maintain_order=True):  # nobody of the group was ever attacked
        rows.setdefault(key, dict(zip(by, key)) | _summary(everything.clear(), values))
    for key, group in results.group_by(by, maintain_order=True):
        statuses = dict(group["status"].value_counts().iter_rows())
        rows[key] |= {status: statuses.get(status, 0) for status in ("not_applicable", "failed")}
    return pl.DataFrame(list(rows.values()), schema=schema, orient="row")


def units(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows whose columns `UNIT` name the independent units: of a sum over clients all images come from one answer."""
    summed = pl.col("threat_aggregation").fill_null("individual") != "individual"
    return rows.with_columns(pl.when(summed).then(pl.lit(SUM)).otherwise("client").alias("client"))


def _summary(group: pl.DataFrame, values: Sequence[str]) -> dict[str, object]:
    group = units(group)
    found = int(group["answered"].sum())
    clients = group.select(UNIT).n_unique() if len(group) else 0
    row: dict[str, object] = {
        "n": len(group),
        "answered": found,
        "coverage": found / len(group) if len(group) else None,
        "clients": clients,
        "level": intervals.level(clients),
    }
    scored = group if found else group.clear()
    for name in values:
        row |= _named(name, *_median(scored, name))
    for name in RATES:
        row |= _named(name, *_rate(scored, name))
    return row


def _named(name: str, value: float | None, span: intervals.Span) -> dict[str, float | None]:
    return {name: value, f"{name}_low": span[0], f"{name}_high": span[1]}


def _by_client(rows: pl.DataFrame, name: str, statistic: pl.Expr) -> np.ndarray:
    known = rows.filter(pl.col(name).is_not_null())
    return known.group_by(UNIT, maintain_order=True).agg(statistic.alias("value"))["value"].to_numpy()


def _median(rows: pl.DataFrame, name: str) -> tuple[float | None, intervals.Span]:
    medians = _by_client(rows, name, pl.col(name).median())
    if len(medians) == 0:
        return None, (None, None)
    return float(np.median(medians)), intervals.of_median(medians)


def _rate(rows: pl.DataFrame, name: str) -> tuple[float | None, intervals.Span]:
    shares = _by_client(rows, name, pl.col(name).mean())
    if len(shares) == 0:
        return None, (None, None)
    flags = rows[name].drop_nulls()
    return float(flags.sum()) / len(flags), intervals.of_share(round(float(shares.sum()), 9), len(shares))

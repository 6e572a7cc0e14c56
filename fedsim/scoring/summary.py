"""From one row per image to one row per group: medians and rates, each with its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import binomtest

from fedsim.random import rng_for
from fedsim.table import PSNR_CAP_SUMMARY

RATES = ("leaked_ssim", "leaked_psnr", "bit_exact")
SCORES = ("mse", "psnr", "ssim", "lpips")
CONFIDENCE = 0.95
REPLICATES = 2000
BLOCK = 4_000_000  # resampled values held at once


def summarise(results: pl.DataFrame, by: Sequence[str], values: Sequence[str] = SCORES) -> pl.DataFrame:
    """One row for each combination of the columns `by`, in order of first appearance.

    Only rows of status `ok` are scored. An interval is null where there is less than two images to tell from.

    Args:
        results: the results table.
        by: the columns that make a group, e.g. `["attack", "defense"]`.
        values: numeric columns of which to take the median.

    Returns:
        The columns `by`; `n` (images scored), `not_applicable` and `failed` (images).
        For each of `values` its median `<value>`, and `<value>_low`, `<value>_high` from a hierarchical bootstrap:
        seeds are resampled, then clients within a seed, then images within a client, which are not independent. PSNR
        is capped at 100 dB first.
        For each of `RATES` the share `<rate>`, and its Clopper-Pearson interval `<rate>_low`, `<rate>_high`, which
        takes images as independent.
    """
    columns = {name: results.schema[name] for name in by}
    schema: dict[str, Any] = columns | dict.fromkeys(("n", "not_applicable", "failed"), pl.Int64)
    for name in (*values, *RATES):
        schema |= dict.fromkeys((name, f"{name}_low", f"{name}_high"), pl.Float64)
    capped = results.with_columns(pl.col("psnr").clip(upper_bound=PSNR_CAP_SUMMARY))
    rows = []
    for key, group in capped.group_by(by, maintain_order=True):
        counts = dict(group["status"].value_counts().iter_rows())
        scored = group.filter(pl.col("status") == "ok")
        row: dict[str, object] = dict(zip(by, key))
        row |= {"n": len(scored), **{status: counts.get(status, 0) for status in ("not_applicable", "failed")}}
        for name in values:
            row |= _named(name, _median(scored.filter(pl.col(name).is_not_null()), name, key))
        for name in RATES:
            row |= _named(name, _rate(scored[name].drop_nulls()))
        rows.append(row)
    return pl.DataFrame(rows, schema=schema, orient="row")


Estimate = tuple[float | None, float | None, float | None]
"""A value and its interval."""


def _named(name: str, estimate: Estimate) -> dict[str, float | None]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), estimate))


def _rate(flags: pl.Series) -> Estimate:
    if len(flags) == 0:
        return None, None, None
    return _share(int(flags.sum()), len(flags))


@cache  # a large run asks for the same few shares thousands of times
def _share(successes: int, images: int) -> Estimate:
    interval = binomtest(successes, images).proportion_ci(CONFIDENCE, method="exact")
    return successes / images, float(interval.low), float(interval.high)


def _median(rows: pl.DataFrame, name: str, key: tuple[object, ...]) -> Estimate:
    if len(rows) == 0:
        return None, None, None
    middle = float(np.median(rows[name].to_numpy()))
    if len(rows) == 1:
        return middle, None, None
    medians = bootstrap_medians(rows["seed"].to_numpy(), rows["client"].to_numpy(), rows[name].to_numpy(), str(key))
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return middle, float(low), float(high)


def bootstrap_medians(seeds: np.ndarray, clients: np.ndarray, values: np.ndarray, name: str) -> np.ndarray:
    """Medians (REPLICATES,) of hierarchical resamples of `values` (n,): seeds, clients in a seed, images in a client.

    Every level is drawn with replacement and in its original number. `name` seeds the draws.
    """
    # (seed, client, image) -> value, padded with NaN, and how many clients and images there really are.
    tree = [
        [values[(seeds == seed) & (clients == client)] for client in np.unique(clients[seeds == seed])]
        for seed in np.unique(seeds)
    ]
    client_counts = np.array([len(branch) for branch in tree])
    most_images = max(len(leaf) for branch in tree for leaf in branch)
    padded = np.full((len(tree), client_counts.max(), most_images), np.nan)
    image_counts = np.ones(padded.shape[:2], dtype=int)
    for s, branch in enumerate(tree):
        for c, leaf in enumerate(branch):
            padded[s, c, : len(leaf)] = leaf
            image_counts[s, c] = len(leaf)

    rng = rng_for(0, "bootstrap", group=name)
    block = max(1, BLOCK // padded.size)
    medians = []
    for start in range(0, REPLICATES, block):
        shape = (min(block, REPLICATES - start), *padded.shape)
        seed = rng.integers(len(tree), size=shape[:2])[:, :, None]
        client = (rng.random(shape[:3]) * client_counts[seed]).astype(int)
        image = (rng.random(shape) * image_counts[seed, client][..., None]).astype(int)
        drawn = padded[seed[..., None], client[..., None], image]
        # A seed with fewer clients, or a client with fewer images, than the largest gives fewer draws.
        drawn[np.arange(shape[2]) >= client_counts[seed]] = np.nan
        drawn[np.arange(shape[3]) >= image_counts[seed, client][..., None]] = np.nan
        medians.append(_row_medians(drawn.reshape(shape[0], -1)))
    return np.concatenate(medians)


def _row_medians(values: np.ndarray) -> np.ndarray:
    """The median of each row (n, m), NaN left out. `np.nanmedian` gives the same, a hundred times slower."""
    values = np.sort(values, axis=1)  # NaN goes last
    counts = (~np.isnan(values)).sum(1)
    rows = np.arange(len(values))
    return (values[rows, (counts - 1) // 2] + values[rows, counts // 2]) / 2

"""Medians, rates and their intervals."""

from __future__ import annotations

import time

import numpy as np
import polars as pl
import pytest
from scipy.stats import beta

from fedsim import table
from fedsim.scoring import summary
from fedsim.scoring.summary import bootstrap_medians, summarise


def rows(psnr, **columns):
    """One `ok` row a value; a client each unless said otherwise."""
    count = len(psnr)
    given = {
        "status": ["ok"] * count,
        "seed": [0] * count,
        "client": list(range(count)),
        "attack": ["ig"] * count,
        "psnr": psnr,
        "leaked_psnr": [value is not None and value > 19 for value in psnr],
        **columns,
    }
    return table.frame([dict(zip(given, values)) for values in zip(*given.values())])


def test_only_ok_rows_are_scored_and_the_others_are_counted():
    results = rows(
        [10.0, 20.0, 30.0, 99.0, None, None],
        status=["ok", "ok", "ok", "failed", "not_applicable", "not_applicable"],
        attack=["ig"] * 5 + ["other"],
    )
    first, second = summarise(results, ["attack"], ["psnr"]).to_dicts()
    assert (first["attack"], first["n"], first["failed"], first["not_applicable"]) == ("ig", 3, 1, 1)
    assert first["psnr"] == 20
    assert first["leaked_psnr"] == pytest.approx(2 / 3)
    assert first["leaked_ssim"] is None
    assert (second["attack"], second["n"], second["not_applicable"]) == ("other", 0, 1)
    assert (second["psnr"], second["psnr_low"], second["leaked_psnr"]) == (None, None, None)


def test_psnr_is_capped_at_100_in_a_summary():
    [row] = summarise(rows([160.0, 150.0, 120.0, 20.0]), ["attack"]).to_dicts()
    assert row["psnr"] == 100
    assert row["psnr_high"] == 100


def test_one_image_has_no_interval():
    [row] = summarise(rows([30.0]), ["attack"], ["psnr"]).to_dicts()
    assert (row["psnr"], row["psnr_low"], row["psnr_high"]) == (30, None, None)
    assert row["leaked_psnr_low"] == pytest.approx(0.025)  # 1 of 1: the exact interval is [0.025, 1]


@pytest.mark.parametrize(("successes", "count"), [(0, 8), (3, 8), (8, 8), (40, 64)])
def test_rates_have_clopper_pearson_intervals(successes, count):
    [row] = summarise(rows([30.0] * successes + [10.0] * (count - successes)), ["attack"], ["psnr"]).to_dicts()
    low = beta.ppf(0.025, successes, count - successes + 1) if successes else 0.0
    high = beta.ppf(0.975, successes + 1, count - successes) if successes < count else 1.0
    assert row["leaked_psnr"] == successes / count
    assert (row["leaked_psnr_low"], row["leaked_psnr_high"]) == pytest.approx((low, high), abs=1e-9)


def test_groups_keep_their_order_and_do_not_disturb_each_other():
    rng = np.random.default_rng(0)
    two = rows(rng.normal(20, 5, 40).tolist(), attack=["b"] * 20 + ["a"] * 20, client=[*range(20), *range(20)])
    both = summarise(two, ["attack"], ["psnr"])
    assert both["attack"].to_list() == ["b", "a"]
    alone = summarise(two.filter(pl.col("attack") == "a"), ["attack"], ["psnr"])
    assert both.row(1) == alone.row(0)
    assert summarise(two, ["attack"], ["psnr"]).equals(both)


def test_images_of_one_client_tell_less_than_images_of_many():
    """The same 64 values: as 64 clients, or as 4 clients whose images are alike."""
    rng = np.random.default_rng(0)
    centres = np.array([10.0, 20.0, 30.0, 40.0])
    values = (centres[:, None] + rng.normal(0, 0.5, (4, 16))).ravel()
    many = bootstrap_medians(np.zeros(64), np.arange(64), values, "many")
    few = bootstrap_medians(np.zeros(64), np.repeat(np.arange(4), 16), values, "few")
    seeds = bootstrap_medians(np.repeat(np.arange(4), 16), np.arange(64), values, "seeds")

    def width(medians):
        return float(np.subtract(*np.quantile(medians, [0.975, 0.025])))

    assert width(few) > width(many) + 5
    assert width(seeds) > width(many) + 5


def test_the_bootstrap_is_the_plain_loop():
    """Uneven numbers of clients and images, against a loop that says what a hierarchical resample is."""
    seeds = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    clients = np.array([0, 0, 0, 1, 2, 0, 0, 5])
    values = np.array([1.0, 2, 9, 4, 7, 3, 8, 6])
    rng = np.random.default_rng(1)
    loop = []
    for _ in range(4000):
        drawn = []
        for seed in rng.choice(np.unique(seeds), 3):
            own = np.unique(clients[seeds == seed])
            for client in rng.choice(own, len(own)):
                images = values[(seeds == seed) & (clients == client)]
                drawn += rng.choice(images, len(images)).tolist()
        loop.append(np.median(drawn))
    medians = bootstrap_medians(seeds, clients, values, "uneven")
    assert medians.mean() == pytest.approx(np.mean(loop), abs=0.15)
    quantiles = [0.025, 0.25, 0.5, 0.75, 0.975]
    assert np.quantile(medians, quantiles) == pytest.approx(np.quantile(loop, quantiles), abs=0.51)


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        medians = bootstrap_medians(np.zeros(40), np.arange(40), rng.normal(0, 1, 40), str(trial))
        low, high = np.quantile(medians, [0.025, 0.975])
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 1.0


def test_blocks_change_nothing_but_memory(monkeypatch):
    values = np.random.default_rng(0).normal(0, 1, 30)
    whole = bootstrap_medians(np.zeros(30), np.arange(30), values, "x")
    monkeypatch.setattr(summary, "BLOCK", 30 * 100)
    blocks = bootstrap_medians(np.zeros(30), np.arange(30), values, "x")
    assert whole.shape == blocks.shape == (summary.REPLICATES,)
    assert np.quantile(blocks, [0.025, 0.975]) == pytest.approx(np.quantile(whole, [0.025, 0.975]), abs=0.1)


def test_a_large_table_is_summarised_in_seconds():
    rng = np.random.default_rng(0)
    count = 40 * 3 * 64
    large = rows(
        rng.normal(20, 5, count).tolist(),
        attack=[f"a{i % 40}" for i in range(count)],
        seed=[(i // 40) % 3 for i in range(count)],
        client=[i // 120 for i in range(count)],
    )
    start = time.perf_counter()
    assert len(summarise(large, ["attack"], ["psnr"])) == 40
    assert time.perf_counter() - start < 15


def test_an_empty_table_gives_an_empty_summary():
    empty = summarise(table.empty(), ["attack", "defense"])
    assert len(empty) == 0
    assert {"attack", "defense", "n", "psnr_low", "bit_exact_high"} <= set(empty.columns)

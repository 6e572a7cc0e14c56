"""Medians and rates over every image that was attacked."""

from __future__ import annotations

import time

import numpy as np
import polars as pl
import pytest
from scipy.stats import beta

from fedsim import table
from fedsim.scoring.summary import counted, summarise


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


def floor(psnr, **columns):
    """The mean image's score on the same clients."""
    return rows(psnr, attack=["null_mean"] * len(psnr), **columns)


def of(results, attack="ig", values=("psnr",)):
    [row] = summarise(results, ["attack"], values).filter(pl.col("attack") == attack).to_dicts()
    return row


def test_an_image_without_an_answer_counts_with_the_score_of_the_floor():
    """Declining two of four victims must not beat rebuilding all four a little worse."""
    sure = rows([60.0, 60.0, None, None], status=["ok", "ok", "not_applicable", "failed"])
    results = pl.concat([sure, floor([12.0, 13.0, 14.0, 15.0])])
    row = of(results)
    assert (row["n"], row["answered"], row["coverage"]) == (4, 2, 0.5)
    assert (row["not_applicable"], row["failed"]) == (1, 1)
    assert row["psnr"] == (15.0 + 60.0) / 2  # of 14, 15, 60, 60
    assert row["leaked_psnr"] == 0.5


def test_an_image_without_an_answer_in_a_malicious_servers_federation_has_the_floor_of_the_honest_one():
    """The floor is measured where the server is honest; its clients train on the same images."""
    own = {"setting": ["s"] * 2, "defense_params": ["[]"] * 2}
    changed = rows([20.0, None], status=["ok", "not_applicable"], cell=["changed"] * 2, **own)
    other = {"setting": ["s"] * 2, "defense_params": ['[{"name": "clip"}]'] * 2}
    floors = [floor([12.0, 14.0], cell=["honest"] * 2, **own), floor([1.0, 1.0], cell=["other"] * 2, **other)]
    assert of(pl.concat([changed, *floors]))["psnr"] == 17.0


def test_an_image_that_a_partial_answer_lacks_counts_too():
    """One image of a batch of eight was returned: the seven others have rows of status ok without scores."""
    columns = {"client": [0] * 8, "sample": list(range(8))}
    results = pl.concat([rows([60.0] + [None] * 7, **columns), floor([12.0] * 8, **columns)])
    row = of(results)
    assert (row["n"], row["answered"]) == (8, 1)
    assert row["psnr"] == 12
    assert row["leaked_psnr"] == pytest.approx(1 / 8)


def test_without_a_floor_what_was_not_answered_has_the_worst_score():
    row = of(rows([60.0, None, None], status=["ok", "failed", "failed"]))
    assert row["psnr"] == 0


def test_every_metric_is_filled_and_none_is_made_up():
    results = rows([30.0, None], status=["ok", "failed"], ssim=[0.9, None])
    filled = counted(results)
    assert filled["ssim"].to_list() == [0.9, 0.0]
    assert filled["lpips"].to_list() == [None, None]  # never measured
    assert filled["answered"].to_list() == [True, False]


def test_a_client_that_the_server_never_heard_of_was_not_attacked():
    results = rows([30.0, 30.0, None], status=["ok", "ok", "failed"], observed=[True, True, False])
    row = of(results)
    assert (row["n"], row["answered"], row["failed"], row["psnr"]) == (2, 2, 1, 30)


def test_a_group_in_which_nobody_was_attacked_is_still_there():
    results = rows([None, None], status=["failed"] * 2, observed=[False] * 2)
    row = of(results)
    assert (row["n"], row["answered"], row["failed"], row["clients"]) == (0, 0, 2, 0)
    assert (row["psnr"], row["coverage"], row["leaked_psnr"]) == (None, None, None)


def test_what_declined_everywhere_has_no_score():
    row = of(rows([None] * 3, status=["not_applicable"] * 3))
    assert (row["n"], row["answered"], row["coverage"], row["psnr"]) == (3, 0, 0.0, None)


def test_psnr_is_capped_at_100_in_a_summary():
    row = of(rows([160.0, 150.0, 120.0, 20.0]))
    assert row["psnr"] == 100
    assert row["psnr_high"] == 100


def test_one_image_has_no_interval():
    row = of(rows([30.0]))
    assert (row["psnr"], row["psnr_low"], row["psnr_high"], row["level"]) == (30, None, None, None)
    assert row["leaked_psnr_low"] == pytest.approx(0.025)  # 1 of 1: the exact interval is [0.025, 1]


@pytest.mark.parametrize(("successes", "count"), [(0, 8), (3, 8), (8, 8), (40, 64)])
def test_rates_have_clopper_pearson_intervals(successes, count):
    row = of(rows([30.0] * successes + [10.0] * (count - successes)))
    low = beta.ppf(0.025, successes, count - successes + 1) if successes else 0.0
    high = beta.ppf(0.975, successes + 1, count - successes) if successes < count else 1.0
    assert row["leaked_psnr"] == successes / count
    assert (row["leaked_psnr_low"], row["leaked_psnr_high"]) == pytest.approx((low, high), abs=1e-9)


def test_images_of_one_client_are_one_unit():
    """The same 64 values: as 64 clients, or as 8 clients whose images are alike."""
    values = np.repeat(np.linspace(10, 45, 8), 8).tolist()
    many = of(rows(values))
    few = of(rows(values, client=np.repeat(np.arange(8), 8).tolist(), sample=list(range(8)) * 8))
    assert (many["clients"], few["clients"]) == (64, 8)
    assert few["psnr_high"] - few["psnr_low"] > many["psnr_high"] - many["psnr_low"]
    assert few["leaked_psnr_high"] - few["leaked_psnr_low"] > many["leaked_psnr_high"] - many["leaked_psnr_low"]
    assert few["leaked_psnr"] == many["leaked_psnr"]


def test_clients_of_different_seeds_are_different_units():
    assert of(rows([10.0, 20.0, 30.0, 40.0], client=[0, 1, 0, 1], seed=[0, 0, 1, 1]))["clients"] == 4


def test_groups_keep_their_order_and_do_not_disturb_each_other():
    rng = np.random.default_rng(0)
    two = rows(rng.normal(20, 5, 40).tolist(), attack=["b"] * 20 + ["a"] * 20, client=[*range(20), *range(20)])
    both = summarise(two, ["attack"], ["psnr"])
    assert both["attack"].to_list() == ["b", "a"]
    alone = summarise(two.filter(pl.col("attack") == "a"), ["attack"], ["psnr"])
    assert both.row(1) == alone.row(0)
    assert summarise(two, ["attack"], ["psnr"]).equals(both)


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
    assert {"attack", "defense", "n", "coverage", "level", "psnr_low", "bit_exact_high"} <= set(empty.columns)


def test_the_images_of_a_sum_over_clients_are_one_unit():
    """They come from one answer: eight of them are no eight independent clients."""
    alone = of(rows([20.0] * 8))
    assert alone["clients"] == 8
    together = of(rows([20.0] * 8, threat_aggregation=["sum_of_8"] * 8))
    assert (together["n"], together["clients"], together["level"]) == (8, 1, None)
    assert together["psnr_low"] is None
    seeds = of(rows([20.0] * 8, threat_aggregation=["sum_of_4"] * 8, seed=[0] * 4 + [1] * 4, client=[0, 1, 2, 3] * 2))
    assert seeds["clients"] == 2

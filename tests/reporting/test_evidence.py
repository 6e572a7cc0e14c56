"""All defenses beside one another: whose score stands in which column, and what is remarked below a table."""

from __future__ import annotations

import polars as pl
import pytest
from test_sentences import DROPPED as MASKED
from test_sentences import NONE, under

from fedsim.files import write_json
from fedsim.reporting.evidence import evidence, markdown

DROPPED = [{"name": "precode"}]


def of(*rows):
    [plain, *others] = evidence(pl.concat([NONE, *rows]))
    assert (plain.verdict.baseline, plain.by.told, plain.by.naive["psnr"]) == (True, None, 40.0)
    return others


def test_each_attacker_has_a_column():
    naive = under(MASKED, 0.88, inverting_gradients=9.0, null_mean=8.0)
    known = under(MASKED, 0.88, told="known", dropout_inversion=31.0)
    [row] = of(naive, known, under(MASKED, 0.88, told="known", well_informed=35.0))
    by = row.by
    assert (by.naive["psnr"], by.told["psnr"], by.oracle["psnr"], by.guess) == (9.0, 31.0, 35.0, 8.0)
    assert row.closed == pytest.approx(22 / 26)
    heading, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown(evidence(pl.concat([NONE, naive, known]))).splitlines()
        if line.startswith("| ")
    ]
    assert heading == ["defense", "ignores it", "takes it into account", "rebuilt", "accuracy", "verdict"]
    [cells] = [line for line in lines if line[0] == "`dropconnect`"]
    assert [cell.partition(" (")[0] for cell in cells] == [
        "`dropconnect`", "9.0", "31.0", "8 of 8", "88 %", "most images rebuilt"
    ]  # fmt: skip
    assert cells[4] == "88 % (-2)"


def test_a_gain_in_accuracy_has_its_sign():
    shown = markdown(of(under(MASKED, 0.93, inverting_gradients=9.0)))
    assert "93 % (+3)" in shown


@pytest.mark.parametrize(("prv", "shown"), [(None, "| 5.52 |"), (4.861, "| 5.52 (4.86 by PRV) |")])
def test_an_epsilon_has_the_tighter_one_beside_it(prv, shown):
    rows = under([{"name": "dp_sgd"}], 0.9, inverting_gradients=9.0)
    spent = rows.with_columns(epsilon=pl.lit(5.52), epsilon_prv=pl.lit(prv, pl.Float64), delta=pl.lit(1e-5))
    assert shown in markdown(of(spent))


def test_a_gap_that_is_not_closed_is_remarked_on_and_a_closed_one_is_not():
    def remarks(told):
        rows = [
            under(DROPPED, inverting_gradients=9.0),
            under(DROPPED, told="known", dropout_inversion=told),
            under(DROPPED, told="known", well_informed=35.0),
        ]
        return [line for line in markdown(of(*rows)).splitlines() if line.startswith("- ")]

    assert remarks(28.0) == []
    assert remarks(22.0) == [
        "- `precode`: of what the oracle is ahead, dropout inversion closes 50 % (22.0 dB of 35.0)."
    ]


def test_an_image_that_comes_out_at_a_small_epsilon_is_named():
    private = [{"name": "dp_sgd"}]

    def remarks(epsilon, ssim):
        rows = under(private, inverting_gradients=30.0).with_columns(
            epsilon=pl.lit(epsilon, pl.Float64), ssim=pl.lit(ssim, pl.Float64)
        )
        return [line for line in markdown(of(rows)).splitlines() if line.startswith("- ")]

    assert remarks(4.0, 0.7) == ["- `dp_sgd`: epsilon is 4, and all the same an image came out with an SSIM of 0.70."]
    assert remarks(4.0, 0.5) == remarks(80.0, 0.7) == []


def test_the_command_prints_and_writes(fedsim, results, tmp_path):
    write_json(tmp_path / "run" / "fedsim-run.json", {"name": "made-up"})
    results.write_parquet(tmp_path / "run" / "results.parquet")
    code, output, _ = fedsim("defenses", tmp_path / "run")
    assert (code, "ignores it" in output) == (0, True)
    code, *_ = fedsim("defenses", tmp_path / "run", "--markdown", tmp_path / "d.md")
    assert code == 0
    assert (tmp_path / "d.md").read_text().startswith("### ")


def test_no_gap_is_claimed_where_only_noise_on_entries_was_drawn():
    noised = [{"name": "gaussian_noise", "std": 0.01}]
    rows = [under(noised, inverting_gradients=9.0), under(noised, told="known", inverting_gradients=10.0)]
    [row] = of(*rows, under(noised, told="known", well_informed=35.0))
    assert (row.by.oracle, row.closed) == (None, None)


def test_what_was_rebuilt_is_by_the_attack_that_rebuilt_most_of_it():
    """Another may have the higher median below the criterion, and not one image."""
    higher = under(DROPPED, told="known", dropout_inversion=13.0)
    lower = under(DROPPED, inverting_gradients=10.0).with_columns(leaked_psnr=pl.col("client") < 3)
    [row] = of(higher, lower)
    assert (row.verdict.best["attack"], row.verdict.most["attack"]) == ("dropout_inversion", "inverting_gradients")
    assert (row.verdict.kind, row.verdict.rebuilt) == ("partly", 3)
    assert "| 3 of 8 |" in markdown([row])
    [row] = of(higher, lower.with_columns(leaked_psnr=pl.col("client") < 4))
    assert row.verdict.kind == "leaks"

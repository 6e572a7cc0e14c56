"""Attacks against defenses as a table in Markdown."""

from __future__ import annotations

import polars as pl
from made_up_run import row, unscored

from fedsim import table
from fedsim.reporting import crossed, leaderboard


def test_a_row_an_attack_a_column_a_defense():
    rows = [row(client=c, psnr=40.0 + c, stopped="budget") for c in range(6)]
    rows += [row(client=c, psnr=9.0 + c, defense="clip") for c in range(6)]
    rows += [row(client=c, psnr=30.0, attack="well_informed", oracle=True) for c in range(6)]
    rows += [unscored(client=c, attack="cut", status="not_applicable", reason="no head") for c in range(6)]
    rows += [row(client=c, psnr=10.0, attack="null_mean") for c in range(6)]
    text = crossed.markdown(leaderboard.build(table.frame(rows)))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| attack | knows | none | clip |"
    assert "| inverting_gradients | C | 42.5 (40.0–45.0) † | 11.5 (9.0–14.0) |" in lines
    assert "| well_informed (oracle) | C | 30.0 (30.0–30.0) |  |" in lines
    assert "| cut | C | declines |  |" in lines
    assert "6 images a defense." in text


def test_images_that_were_not_answered_are_counted_beside_the_median():
    rows = [row(client=c, psnr=40.0) for c in range(4)]
    rows += [unscored(client=c, status="not_applicable", reason="no head") for c in (4, 5)]
    rows += [row(client=c, psnr=10.0, attack="null_mean") for c in range(6)]
    assert "40.0 (10.0–40.0), 4 of 6 |" in crossed.markdown(leaderboard.build(table.frame(rows)))


def test_settings_have_tables_of_their_own():
    rows = pl.concat([table.frame([row(client=c, model=name) for c in range(6)]) for name in ("mlp", "lenet")])
    assert crossed.markdown(leaderboard.build(rows)).count("| attack | knows |") == 2

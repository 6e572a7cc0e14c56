"""One sentence of each defense: whom it stops, whom not, and what it costs."""

from __future__ import annotations

import json
import math

import polars as pl
from made_up_run import board_rows

from fedsim.reporting import leaderboard
from fedsim.reporting.sentences import sentences
from fedsim.reporting.verdicts import verdicts


def under(parts, utility=None, told="unknown", **medians):
    """Eight victims of each attack about a median PSNR."""
    return board_rows(**medians).with_columns(
        defense=pl.lit(" + ".join(part["name"] for part in parts) or "none"),
        defense_params=pl.lit(json.dumps(parts)),
        utility=pl.lit(utility, pl.Float64),
        threat_defense=pl.lit(told),
        oracle=pl.col("attack") == "well_informed",
    )


NONE, PRUNED = under([], 0.9, inverting_gradients=40.0), [{"name": "pruning", "keep": 0.1}]


DROPPED = [{"name": "dropconnect", "p": 0.3}]


def said(*rows, of="pruning"):
    board = leaderboard.build(pl.concat([NONE, *rows]))
    [(_, defense, sentence)] = sentences(board, verdicts(board))
    assert defense == of
    return sentence


def test_whom_it_stops_and_whom_not():
    naive = under(DROPPED, 0.88, inverting_gradients=9.0, null_mean=8.0)
    known = under(DROPPED, 0.88, told="known", dropout_inversion=31.0)
    oracle = under(DROPPED, 0.88, told="known", well_informed=35.0)
    assert said(naive, known, oracle, of="dropconnect") == (
        "Stops inverting gradients (9.0 dB), not dropout inversion (31.0 dB), which takes it "
        "into account; told what the client drew, well informed (35.0 dB); a guess that never "
        "looks at the update has 8.0 dB. It costs 2 points of test accuracy."
    )


def test_of_noise_on_entries_there_is_no_oracle():
    """It is told no draw of it: its answer is that of whoever knows the defense."""
    noised = [{"name": "gaussian_noise", "std": 0.01}, {"name": "gradient_dropout"}]
    rows = [under(noised, inverting_gradients=9.0), under(noised, told="known", well_informed=35.0)]
    assert "told what the client drew" not in said(*rows, of="gaussian_noise + gradient_dropout")
    dropped = [row.with_columns(dropout=pl.lit(0.5)) for row in rows]
    assert "told what the client drew" in said(*dropped, of="gaussian_noise + gradient_dropout, dropout 0.5")


def test_an_attacker_that_knows_it_and_was_never_tried_is_missed():
    assert said(under(PRUNED, inverting_gradients=9.0)) == (
        "Stops inverting gradients (9.0 dB); no attack that takes it into account was tried. What it costs in "
        "accuracy was not measured."
    )


def test_what_does_not_rebuild_the_undefended_client_is_not_stopped():
    idle = under([], sapag=12.0)
    found = said(idle, under(PRUNED, sapag=11.0))
    assert found.startswith("Sapag (11.0 dB) gets no further without it; no attack that takes it into account")
    both = said(idle, under(PRUNED, sapag=11.0), under(PRUNED, told="known", sapag=12.0))
    assert both.startswith(
        "Sapag (11.0 dB) and sapag [knows the defense] (12.0 dB), which takes it into account, get no further without"
    )
    able = said(idle, under(PRUNED, sapag=11.0), under(PRUNED, told="known", inverting_gradients=30.0))
    assert able.startswith(
        "Does not stop inverting gradients (30.0 dB), which takes it into account; sapag (11.0 dB) gets no further"
    )


def test_of_those_that_are_stopped_the_one_counts_that_had_something_to_lose():
    rows = [under([], sapag=12.0), under(PRUNED, sapag=11.0), under(PRUNED, inverting_gradients=9.0)]
    assert said(*rows).startswith("Stops inverting gradients (9.0 dB);")


def test_an_informed_attack_that_does_less_than_a_naive_one_is_no_measure():
    found = said(under(PRUNED, inverting_gradients=30.0), under(PRUNED, told="known", inverting_gradients=9.0))
    assert found.startswith("Does not stop inverting gradients (30.0 dB); inverting gradients [knows the defense] (9.0")
    assert "does less: it is no measure of the defense" in found


def test_both_stopped_and_neither():
    low = said(under(PRUNED, inverting_gradients=9.0), under(PRUNED, told="known", inverting_gradients=10.0))
    assert low.startswith("Stops inverting gradients (9.0 dB), and inverting gradients [knows the defense] (10.0 dB)")
    high = said(under(PRUNED, inverting_gradients=29.0), under(PRUNED, told="known", inverting_gradients=30.0))
    assert high.startswith("Does not stop inverting gradients (29.0 dB), nor inverting gradients [knows the defense]")


def test_images_that_were_rebuilt_all_the_same_are_counted():
    assert "(18.9 dB, 3 of 8 images rebuilt all the same)" in said(under(PRUNED, inverting_gradients=18.85))


def test_bytes_and_epsilon_are_said_where_they_differ_from_an_undefended_client():
    def of(rows, **columns):
        return rows.with_columns(**{name: pl.lit(value, rows[name].dtype) for name, value in columns.items()})

    def cost(epsilon=None, prv=None, plain=1000, sent=1000):
        rows = of(under(PRUNED, inverting_gradients=9.0), epsilon=epsilon, epsilon_prv=prv, delta=1e-5, bytes=sent)
        board = leaderboard.build(pl.concat([of(NONE, bytes=plain), rows]))
        return sentences(board, verdicts(board))[0][2].partition("measured.")[2].strip()

    assert cost() == cost(sent=1001) == cost(plain=None) == cost(sent=None) == ""
    assert cost(sent=131) == "It sends 0.13 times the bytes."
    assert cost(sent=34_700) == "It sends 35 times the bytes."
    assert cost(epsilon=5.52, prv=4.861) == "Its ε is 5.52 (4.86 by PRV) at δ = 1e-05."
    assert cost(epsilon=math.inf, sent=20) == "It sends 0.02 times the bytes. Its ε is ∞ at δ = 1e-05."


def test_a_gain_is_called_one():
    assert said(under(PRUNED, 0.95, inverting_gradients=9.0)).endswith("It gains 5 points of test accuracy.")

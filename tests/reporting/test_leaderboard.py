"""Ranks, ties, roles and numbers of the leaderboard, on data whose answer is known."""

import json

import polars as pl
import pytest
from made_up_run import DEFENSES, HOSTILE, board_rows, row, unscored
from rich.console import Console

from fedsim import table
from fedsim.reporting import leaderboard


def ranks(board):
    return {label: (rank, tied) for label, rank, tied in board.select("attack_label", "rank", "tied").iter_rows()}


def rendered(board, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(leaderboard.terminal(board))
    return console.export_text()


def test_a_clear_win_ranks_first():
    board = leaderboard.build(board_rows(dropout_inversion=40.0, inverting_gradients=20.0, third=30.0))
    assert ranks(board) == {"dropout_inversion": (1, False), "third": (2, False), "inverting_gradients": (3, False)}


def test_overlapping_intervals_tie_and_the_next_clear_loser_counts_them():
    board = leaderboard.build(board_rows(a=30.0, b=30.1, c=20.0))
    assert ranks(board) == {"b": (1, True), "a": (1, True), "c": (3, False)}
    assert board["attack_label"].to_list() == ["b", "a", "c"]


def test_one_image_tells_nothing_apart():
    rows = table.frame([row(attack="a", psnr=50.0), row(attack="b", psnr=10.0)])
    assert ranks(leaderboard.build(rows)) == {"a": (1, True), "b": (1, True)}


def test_oracles_and_floors_have_no_rank_and_frame_the_attacks():
    rows = board_rows(well_informed=90.0, null_mean=60.0, dropout_inversion=40.0, inverting_gradients=20.0)
    rows = rows.with_columns(oracle=pl.col("attack") == "well_informed")
    board = leaderboard.build(rows)
    assert board["role"].to_list() == ["oracle", "attack", "attack", "floor"]
    assert ranks(board)["well_informed"] == (None, False)
    assert ranks(board)["null_mean"] == (None, False)
    assert ranks(board)["dropout_inversion"] == (1, False)


def test_attacks_that_were_granted_different_things_are_ranked_apart_and_named_apart():
    easy = board_rows(dropout_inversion=40.0)
    hard = board_rows(dropout_inversion=20.0).with_columns(threat_labels=pl.lit("unknown"))
    assert ranks(leaderboard.build(pl.concat([easy, hard]))) == {
        "dropout_inversion [labels known]": (1, False),
        "dropout_inversion [labels unknown]": (1, False),
    }


def test_numbers_are_medians_and_rates_of_the_scored_rows():
    rows = [row(client=c, psnr=p, ssim=p / 100, iterations=10 * c) for c, p in enumerate((10.0, 18.0, 20.0, 160.0))]
    rows.append(unscored(client=4, status="failed", reason="NaN"))
    [entry] = leaderboard.build(table.frame(rows)).to_dicts()
    assert (entry["psnr"], entry["n"], entry["failed"], entry["not_applicable"]) == (19.0, 4, 1, 0)
    assert entry["leaked_psnr"] == 0.5
    assert entry["leaked_psnr_low"] == pytest.approx(0.0676, abs=1e-4)  # Clopper-Pearson, 2 of 4
    assert entry["ssim"] == pytest.approx(0.19)
    assert entry["iterations"] == 15
    assert entry["psnr_high"] <= 100  # capped in a summary


def test_variants_of_an_attack_are_told_apart_by_what_differs():
    rows = [
        row(client=c, attack_params=json.dumps({"iterations": i, "learning_rate": 0.1}))
        for i in (5, 50)
        for c in (0, 1)
    ]
    board = leaderboard.build(table.frame(rows))
    assert sorted(board["attack_label"]) == [
        "inverting_gradients (iterations=5)",
        "inverting_gradients (iterations=50)",
    ]


def test_the_dropout_rate_belongs_to_the_defense_and_not_to_the_model():
    rows = [row(dropout=p, model_params=json.dumps({"dropout": p, "width": 8})) for p in (0.0, 0.5)]
    board = leaderboard.build(table.frame(rows))
    assert board["setting_label"].unique().to_list() == ["mnist · mlp"]
    assert board["defense_label"].to_list() == ["none", "none, dropout 0.5"]


def test_runs_that_share_work_count_it_once():
    rows = board_rows(a=30.0)
    again = rows.with_columns(run=pl.lit("other"))
    assert leaderboard.build(pl.concat([rows, again]))["n"].to_list() == [8]


def test_utility_is_the_mean_over_cells_whatever_their_number_of_rows():
    rows = [row(cell="x", client=c, utility=0.9) for c in range(3)] + [row(cell="y", seed=1, utility=0.7)]
    assert leaderboard.build(table.frame(rows))["utility"].to_list() == [pytest.approx(0.8)]


def test_a_failed_client_stays_in_the_entry_of_its_attack():
    """Its row has no observation to read the client's mode off, so it carries the defaults."""
    rows = [row(client=c, threat_client_mode="eval", threat_batch_norm="running") for c in range(3)]
    rows.append(unscored(client=3, status="failed", reason="NaN"))
    board = leaderboard.build(table.frame(rows))
    assert board.select("n", "failed", "threat_client_mode").rows() == [(3, 1, "eval")]


def test_the_failure_is_the_reason_shown_where_others_did_not_apply():
    rows = [unscored(client=c, status="not_applicable", reason="needs labels") for c in (0, 1)]
    rows.append(unscored(client=2, status="failed", reason="NaN"))
    assert leaderboard.build(table.frame(rows))["reason"].to_list() == ["NaN"]


def test_the_terminal_shows_every_attack_in_100_columns(results):
    board = leaderboard.build(results)
    text = rendered(board, 100)
    assert max(map(len, text.splitlines())) <= 100
    for row_ in board.filter(pl.col("n") > 0).to_dicts():
        assert f"{row_['psnr']:.1f}" in text
    for defense in DEFENSES:
        assert defense in text
    assert "not applicable to 10 images" in text
    assert "1=" in text


def test_a_narrow_terminal_drops_scores_and_keeps_ranks_and_psnr(results):
    text = rendered(leaderboard.build(results), 72)
    assert max(map(len, text.splitlines())) <= 72
    assert "1= inverting_gradients" in text
    assert "PSNR dB" in text
    assert "LPIPS" not in text


def test_markup_in_names_is_printed_and_not_obeyed():
    text = rendered(leaderboard.build(board_rows(**{"[red]x[/red]": 30.0})), 100)
    assert "[red]x[/red]" in text


def test_json_holds_the_board_and_nothing_that_json_lacks(results):
    board = leaderboard.build(results)
    content = json.loads(leaderboard.to_json(board), parse_constant=pytest.fail)
    assert len(content["rows"]) == len(board)
    assert [entry["psnr"] for entry in content["rows"]] == board["psnr"].to_list()


def test_the_page_escapes_names(results):
    page = leaderboard.html(leaderboard.build(results))
    assert HOSTILE not in page
    assert "&lt;script&gt;window.hacked" in page


def test_no_results_is_said_and_not_an_error():
    board = leaderboard.build(table.empty())
    assert board.is_empty()
    assert "no results yet" in rendered(board, 100)
    assert "no results yet" in leaderboard.html(board)
    assert json.loads(leaderboard.to_json(board))["rows"] == []


def test_the_stage_that_answered_is_shown():
    def answered(client, stage):
        return row(attack="cascade", client=client, details=json.dumps({"stage": stage, "certain": [True]}))

    rows = [answered(0, "cut"), answered(1, "first_linear"), answered(2, "cut")]
    rows += [row(attack="first_linear", client=0, details=json.dumps({"stage": "first_linear"}))]
    rows += [unscored(attack="cascade", client=3, status="failed", reason="killed", details=None)]
    board = leaderboard.build(table.frame(rows))
    stages = dict(board.select("attack", "stages").iter_rows())
    assert stages == {"cascade": "cut (2 images), first_linear (1 image)", "first_linear": None}
    said = "cascade: answered by cut (2 images), first_linear (1 image)"
    assert said in leaderboard.html(board)
    assert said in rendered(board, 120)


def test_gradients_and_weights_are_told_apart():
    rows = [row(update_kind="gradient", psnr=30.0), row(update_kind="delta", psnr=20.0, cell="other")]
    board = leaderboard.build(table.frame(rows))
    assert board["setting_label"].to_list() == ["mnist · mlp · gradients", "mnist · mlp · weights"]

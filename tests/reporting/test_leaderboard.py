"""Ranks, ties, roles and numbers of the leaderboard, on data whose answer is known."""

import json
from typing import get_args, get_origin, get_type_hints

import polars as pl
import pytest
from made_up_run import DEFENSES, HOSTILE, board_rows, make_results, row, unscored
from rich.console import Console

from fedsim import table
from fedsim.reporting import leaderboard
from fedsim.reporting.leaderboard import views


def ranks(board):
    return {label: (rank, tied) for label, rank, tied in board.select("attack_label", "rank", "tied").iter_rows()}


def rendered(board, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(views.terminal(board))
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
    easy = board_rows(dropout_inversion=40.0, inverting_gradients=20.0)
    hard = board_rows(dropout_inversion=20.0, inverting_gradients=10.0).with_columns(threat_labels=pl.lit("unknown"))
    assert ranks(leaderboard.build(pl.concat([easy, hard]))) == {
        "dropout_inversion": (1, False),
        "inverting_gradients": (2, False),
        "dropout_inversion [without labels]": (1, False),
        "inverting_gradients [without labels]": (2, False),
    }


def test_nobody_is_first_of_one():
    rows = board_rows(dropout_inversion=40.0, null_mean=12.0)
    assert ranks(leaderboard.build(rows)) == {"dropout_inversion": (None, False), "null_mean": (None, False)}


def test_an_attack_that_declines_half_the_victims_does_not_outrank_one_that_rebuilds_all():
    """60 dB for four of eight and 40 dB for all: the first is no better than a guess on the others."""
    sure = [row(attack="sure", client=c, psnr=60.0) for c in range(4)]
    sure += [unscored(attack="sure", client=c, status="not_applicable", reason="declined") for c in range(4, 8)]
    steady = [row(attack="steady", client=c, psnr=40.0 + c / 10) for c in range(8)]
    floor = [row(attack="null_mean", client=c, psnr=12.0) for c in range(8)]
    board = leaderboard.build(table.frame(sure + steady + floor))
    entries = {entry["attack_label"]: entry for entry in board.to_dicts()}
    assert board["attack_label"].to_list() == ["steady", "sure", "null_mean"]
    assert (entries["sure"]["psnr"], entries["sure"]["coverage"], entries["sure"]["n"]) == (36.0, 0.5, 8)
    assert (entries["steady"]["rank"], entries["sure"]["leaked_psnr"]) == (1, 0.5)
    assert "4 of 8" in rendered(board, 120)
    assert "answered 4" in views.html(board)


def test_rows_are_pooled_only_if_they_differ_in_nothing_that_can_change_a_result():
    """A learning rate, a precision, a key that does not exist today: each parts two settings, and shows."""
    for key, values in (("learning_rate", (0.1, 0.01)), ("precision", ("float32", "float64")), ("new_key", (1, 2))):
        rows = [
            row(client=c, psnr=psnr, setting=json.dumps({"federation": {"local": {key: value}}, "round": 1}))
            for value, psnr in zip(values, (134.0, 62.0))
            for c in range(8)
        ]
        board = leaderboard.build(table.frame(rows))
        assert board["psnr"].to_list() == [100.0, 62.0]
        assert [label.split(" · ")[-1] for label in board["setting_label"]] == [
            f"{key.replace('_', ' ')} {value}" for value in values
        ]


def test_development_victims_choose_and_are_not_reported():
    rows = [row(attack=a, client=c, psnr=p, development=c < 2) for a, psnr in (("a", (9, 9, 30)), ("b", (20, 20, 25)))
            for c, p in enumerate(psnr)]  # fmt: skip
    board = leaderboard.build(table.frame(rows))
    found = {entry["attack"]: (entry["psnr"], entry["n"], entry["chosen_psnr"]) for entry in board.to_dicts()}
    assert found == {"a": (30.0, 1, 9.0), "b": (25.0, 1, 20.0)}
    assert leaderboard.strongest(board)["attack"].to_list() == ["b"]
    assert leaderboard.strongest(board.with_columns(chosen_psnr=None))["attack"].to_list() == ["a"]


def test_who_knows_a_defense_is_read_off_parameters_and_grants():
    def informed(attack, parts, **threat):
        rows = [row(attack=attack, defense="x", defense_params=json.dumps(parts), **threat)]
        return leaderboard.build(table.frame(rows))["informed"][0]

    dropout, clip, noise = {"name": "dropout", "p": 0.5}, {"name": "clip"}, {"name": "gaussian_noise"}
    assert informed("dropout_inversion", [dropout])
    assert not informed("dropout_inversion", [dropout], threat_dropout_rate="unknown")
    assert not informed("inverting_gradients", [dropout])
    assert informed("inverting_gradients", [clip])
    assert not informed("dropout_inversion", [clip, noise])
    assert not informed("an attack that is not installed", [clip])


def test_numbers_are_medians_and_rates_of_the_scored_rows():
    rows = [row(client=c, psnr=p, ssim=p / 100, iterations=10 * c) for c, p in enumerate((10.0, 18.0, 20.0, 160.0))]
    rows.append(unscored(client=4, status="failed", reason="NaN"))  # a client that sent nothing to attack
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
    assert board["baseline"].to_list() == [True, True]


def test_runs_that_share_work_count_it_once():
    rows = board_rows(a=30.0)
    again = rows.with_columns(run=pl.lit("other"))
    assert leaderboard.build(pl.concat([rows, again]))["n"].to_list() == [8]


def test_utility_is_the_mean_over_cells_whatever_their_number_of_rows():
    rows = [row(cell="x", client=c, utility=0.9) for c in range(3)] + [row(cell="y", seed=1, utility=0.7)]
    assert leaderboard.build(table.frame(rows))["utility"].to_list() == [pytest.approx(0.8)]


def test_the_seeds_behind_a_utility_are_counted():
    rows = [row(cell="x", client=c, utility=0.9) for c in range(3)] + [row(cell="y", seed=1, utility=0.7)]
    assert leaderboard.build(table.frame(rows))["utility_seeds"].to_list() == [2]
    assert leaderboard.build(table.frame([row()]))["utility_seeds"].to_list() == [0]


def test_bytes_are_compared_with_those_of_the_undefended_client_of_the_same_setting():
    def sent(count, defense="none", model="mlp"):
        parts = [] if defense == "none" else [{"name": defense}]
        return [
            row(client=c, defense=defense, defense_params=json.dumps(parts), model=model, bytes=count + c)
            for c in range(3)
        ]

    rows = [*sent(1000), *sent(100, "clip"), *sent(500, "clip", "vit"), *sent(49, "none", "vit"), *sent(7, "clip", "x")]
    board = leaderboard.build(table.frame(rows))
    found = {(one["model"], one["defense"]): (one["bytes"], one["bytes_relative"]) for one in board.to_dicts()}
    assert found == {
        ("mlp", "none"): (1001, 1),
        ("mlp", "clip"): (101, 101 / 1001),
        ("vit", "clip"): (501, 10.02),
        ("vit", "none"): (50, 1),
        ("x", "clip"): (8, None),
    }


def test_the_tighter_epsilon_is_known_only_if_it_is_for_every_seed():
    def of(*tighter):
        rows = [row(seed=seed, epsilon=9.0 - seed, epsilon_prv=prv, delta=1e-5) for seed, prv in enumerate(tighter)]
        [found] = leaderboard.build(table.frame(rows)).to_dicts()
        assert found["epsilon"] == 9.0
        return found["epsilon_prv"]

    assert of(3.0, 4.0) == 4.0
    assert of(None, 4.0) is None


def test_a_failed_client_stays_in_the_entry_of_its_attack():
    """Its row has no observation to read the client's mode off, so it carries the defaults."""
    rows = [row(client=c, threat_client_mode="eval", threat_batch_norm="running") for c in range(3)]
    rows.append(unscored(client=3, status="failed", reason="NaN"))
    board = leaderboard.build(table.frame(rows))
    assert board.select("n", "failed", "threat_client_mode").rows() == [(3, 1, "eval")]


def test_an_attack_that_fails_has_attacked():
    rows = [row(client=c, psnr=40.0) for c in range(3)]
    rows += [unscored(client=c, status="failed", reason="NaN", observed=True) for c in range(3, 9)]
    board = leaderboard.build(table.frame(rows))
    assert board.select("n", "answered", "failed", "psnr").rows() == [(9, 3, 6, 0.0)]


def test_the_failure_is_the_reason_shown_where_others_did_not_apply():
    rows = [unscored(client=c, status="not_applicable", reason="needs labels") for c in (0, 1)]
    rows.append(unscored(client=2, status="failed", reason="NaN"))
    assert leaderboard.build(table.frame(rows))["reason"].to_list() == ["NaN"]


def test_attacks_that_stopped_alike_are_named_together():
    def stopped(name, client, why):
        return row(attack=name, client=client, stopped=why)

    rows = [stopped(name, c, "budget") for name in ("dlg", "tag") for c in range(6)]
    rows += [stopped("sapag", c, "budget" if c < 3 else "converged") for c in range(6)]
    [section] = views.sections(leaderboard.build(table.frame(rows)))
    assert section.cautions() == [
        "dlg, tag: 100 % stopped at the budget of iterations",
        "sapag: 50 % stopped at the budget of iterations",
    ]


def test_the_terminal_shows_every_attack_in_100_columns(results):
    board = leaderboard.build(results)
    text = rendered(board, 100)
    assert max(map(len, text.splitlines())) <= 100
    for row_ in board.filter(pl.col("answered") > 0).to_dicts():
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
    content = json.loads(views.to_json(board), parse_constant=pytest.fail)
    assert len(content["rows"]) == len(board)
    assert [entry["psnr"] for entry in content["rows"]] == board["psnr"].to_list()


def test_the_page_escapes_names(results):
    page = views.html(leaderboard.build(results))
    assert HOSTILE not in page
    assert "&lt;script&gt;window.hacked" in page


def test_no_results_is_said_and_not_an_error():
    board = leaderboard.build(table.empty())
    assert board.is_empty()
    assert "no results yet" in rendered(board, 100)
    assert "no results yet" in views.html(board)
    assert json.loads(views.to_json(board))["rows"] == []


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
    assert said in views.html(board)
    assert said in rendered(board, 120)


def test_gradients_and_weights_are_told_apart():
    rows = [row(update_kind="gradient", psnr=30.0), row(update_kind="delta", psnr=20.0, cell="other")]
    board = leaderboard.build(table.frame(rows))
    assert board["setting_label"].to_list() == ["mnist · mlp · gradients", "mnist · mlp · weights"]


def test_of_a_defense_that_changes_images_the_score_to_the_image_itself_and_to_what_was_made_of_it_stand_beside():
    """An image without an answer counts with the floor's, as it does in the score."""

    def shown(defense, attack, psnr, original, trained, **values):
        parts = [] if defense == "none" else [{"name": defense}]
        return [
            row(client=c, attack=attack, defense=defense, defense_params=json.dumps(parts), psnr=psnr,
                psnr_original=original, psnr_trained=trained, **values)
            for c in range(3)
        ]  # fmt: skip

    answered = shown("oasis", "inverting_gradients", 30.0, 12.0, 130.0)
    declined = [
        unscored(status="not_applicable", reason="no", client=c, attack="first_linear", defense="oasis")
        for c in range(3)
    ]
    declined[0] = shown("oasis", "first_linear", 31.0, 13.0, 31.0)[0]
    rows = [*answered, *declined, *shown("oasis", "null_mean", 10.0, 9.0, 11.0)]
    others = [*shown("none", "dlg", 40.0, None, None), *shown("cutmix", "dlg", 20.0, None, 25.0)]
    board = leaderboard.build(table.frame([*rows, *others]))
    found = {
        one["attack"] + " " + one["defense"]: (one["psnr"], one["psnr_original"], one["psnr_trained"])
        for one in board.to_dicts()
    }
    assert found == {
        "inverting_gradients oasis": (30.0, 12.0, 100.0),
        "first_linear oasis": (10.0, 9.0, 11.0),
        "null_mean oasis": (10.0, 9.0, 11.0),
        "dlg none": (40.0, None, None),
        "dlg cutmix": (20.0, None, 25.0),
    }


def test_a_typed_row_has_columns_of_the_board_and_their_types():
    python = {pl.String: str, pl.Float64: float, pl.Int64: int, pl.Boolean: bool}
    own = {name: kind for name, kind in get_type_hints(leaderboard.Row).items() if name != "stem"}
    assert set(own) <= set(leaderboard.COLUMNS)
    for name, kind in own.items():
        column = python[leaderboard.COLUMNS[name]]
        assert column in (get_args(kind) if get_origin(kind) else (kind,)), name
    made = leaderboard.rows_of(leaderboard.build(make_results()))
    assert made
    assert all(set(own) <= set(one) for one in made)
    for one in made:  # what is said never to be absent never is, of an attack that has answered
        absent = [name for name, kind in own.items() if type(None) not in get_args(kind) and one[name] is None]
        assert absent == ([] if one["answered"] else absent)


def test_a_guess_stands_once_whatever_its_attacker_was_told():
    rows = board_rows(inverting_gradients=40.0, null_mean=9.0)
    told = rows.with_columns(threat_defense=pl.lit("known"))
    board = leaderboard.build(pl.concat([rows, told]))
    assert sorted(board["attack_label"]) == [
        "inverting_gradients", "inverting_gradients [knows the defense]", "null_mean"
    ]  # fmt: skip
    [guess] = leaderboard.rows_of(board.filter(pl.col("attack") == "null_mean"))
    assert guess["n"] == len(rows.filter(pl.col("attack") == "null_mean"))
    hidden = rows.with_columns(threat_batch_size=pl.lit("unknown"))  # without which the mean image declines
    assert leaderboard.build(pl.concat([rows, hidden]))["attack"].to_list().count("null_mean") == 2

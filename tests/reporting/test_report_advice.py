"""The three questions at the top of the report, the drawing of the threat model, and what an unfinished run says."""

import polars as pl
import pytest
from made_up_run import HOSTILE, board_rows, make_results, row

from fedsim import table
from fedsim.reporting import leaderboard, prose, report
from fedsim.reporting.advice import advise
from fedsim.reporting.diagram import diagrams
from fedsim.runs.reading import Missing


def advice(results):
    board = leaderboard.build(results)
    return advise(board, prose.verdicts(board))


def under(defense, psnr, utility=None, attack="inverting_gradients", **values):
    return board_rows(**{attack: psnr}).with_columns(
        defense=pl.lit(defense), utility=pl.lit(utility, pl.Float64), **values
    )


def test_the_cheapest_defense_that_held_is_advised_with_its_cost():
    said = advice(pl.concat([under("none", 40.0, 0.9), under("clip", 12.0, 0.7), under("noise", 10.0, 0.88)]))
    assert said.use == ["Use noise. Under it none of the attacks tried rebuilt an image."]
    assert said.cost == ["noise: test accuracy 88.0 % instead of 90.0 %, 2.0 points less."]
    assert said.limits[0] == "Every attack tried here failed on it; a stronger one, or more iterations, may not."
    assert "a server that changes the model it sends" in said.limits[1]


def test_where_no_defense_held_nothing_is_advised():
    said = advice(pl.concat([under("none", 40.0, 0.9), under("clip", 30.0, 0.89), under("noise", 19.0, 0.5)]))
    assert said.use == [
        "None of those tried is enough. noise leaked least: the strongest attack rebuilt 4 of 8 images under it."
    ]
    assert said.limits[0] == "Images were still rebuilt by inverting gradients (4 of 8 images)."


def test_a_defense_that_leaks_as_much_as_none_is_not_advised():
    said = advice(pl.concat([under("none", 40.0, 0.9), under("clip", 30.0, 0.95)]))
    assert said.use == [
        "None of those tried helps; the strongest attack rebuilt 8 of 8 images without one, and no fewer under any."
    ]
    assert said.cost == ["Nothing: no defense is recommended. The table has what each would cost."]


def test_models_that_need_different_defenses_are_told_apart():
    leaky = pl.concat([under("none", 40.0, 0.9), under("clip", 12.0, 0.8)])
    tight = pl.concat([under("none", 12.0, 0.9), under("clip", 12.0, 0.8)]).with_columns(model=pl.lit("vit"))
    assert advice(pl.concat([leaky, tight])).use == [
        "On mnist · mlp: use clip. Under it none of the attacks tried rebuilt an image.",
        "On mnist · vit: this run cannot say. Without a defense the attacks tried rebuilt no image, so that none can "
        "be seen to help.",
    ]


def test_the_cost_on_many_models_is_one_sentence():
    rows = [
        pl.concat([under("none", 40.0, 0.9), under("clip", 12.0, 0.9 - cost)]).with_columns(model=pl.lit(name))
        for name, cost in (("a", 0.02), ("b", 0.05), ("c", 0.03))
    ]
    expected = "clip: 2.0 to 5.0 points of test accuracy, depending on the model; the table has each."
    assert advice(pl.concat(rows)).cost == [expected]


def test_where_nothing_was_rebuilt_no_defense_is_praised():
    said = advice(pl.concat([under("none", 12.0, 0.9), under("clip", 10.0, 0.95)]))
    assert said.use == [
        "This run cannot say. Without a defense the attacks tried rebuilt no image, so that none can be seen to help."
    ]
    assert said.cost == ["Nothing: no defense is recommended. The table has what each would cost."]


def test_a_defense_that_cannot_be_told_from_none_is_not_advised():
    said = advice(pl.concat([under("none", 18.55, 0.9), under("clip", 18.2, 0.85)]))
    assert said.use == [
        "This run cannot say. No image was rebuilt under clip, but the strongest attack rebuilt 1 of 8 images without "
        "a defense, and the intervals overlap. Take more victims, or give the attacks more iterations."
    ]


def test_what_was_seen_to_help_goes_before_what_is_cheap():
    said = advice(pl.concat([under("none", 18.55, 0.9), under("noise", 18.2, 0.89), under("clip", 8.0, 0.85)]))
    assert said.use == ["Use clip. Under it none of the attacks tried rebuilt an image."]


def test_a_defense_without_measured_cost_is_not_called_free():
    said = advice(pl.concat([under("none", 40.0), under("clip", 12.0)]))
    assert said.cost == ["The cost of clip was not measured."]


def test_an_oracle_that_gets_through_is_named_as_one():
    oracle = under("clip", 50.0, 0.8, "well_informed", oracle=pl.lit(True))
    said = advice(pl.concat([under("none", 40.0, 0.9), under("clip", 12.0, 0.8), oracle]))
    assert said.use[0].startswith("Use clip")
    assert "an attacker who is told what no real server knows: well informed (8 of 8 images)" in said.limits[0]


def test_what_was_tried_is_not_listed_as_untried():
    tried = {"threat_server": "malicious", "threat_defense": "known", "threat_auxiliary_data": "public"}
    said = advice(under("none", 40.0).with_columns(**{name: pl.lit(value) for name, value in tried.items()}))
    assert not any(sentence.startswith("Not tried") for sentence in said.limits)


def test_no_answer_no_advice():
    assert advice(table.empty()) is None


def marks(**threat):
    rows = [row(attack=f"a{i}", **{f"threat_{k}": v[i % len(v)] for k, v in threat.items()}) for i in range(2)]
    wide, narrow = diagrams(prose.knowledge(leaderboard.build(table.frame(rows))), ["gradient"])
    assert [item for box in (wide.client, wide.server) for item in box.items] == [
        item for box in (narrow.client, narrow.server) for item in box.items
    ]
    return {item.text: item.mark for item in (*wide.client.items, *wide.server.items)}, wide


def test_the_drawing_marks_what_this_threat_model_grants():
    drawn, _ = marks(labels=["unknown"], noise=["known"], dropout_rate=["known", "unknown"])
    assert drawn["private images"] == "hidden"
    assert drawn["their labels"] == "hidden"
    assert drawn["dropout masks it drew"] == "known"
    assert drawn["dropout rate"] == "varies"
    assert drawn["public images of the same kind"] == "hidden"


def test_the_drawing_tells_servers_apart():
    drawn, wide = marks(server=["malicious"], aggregation=["sum_of_4"], batch_norm=["batch"])
    assert {"may change the model it sends", "sees sums over 4 clients"} <= drawn.keys()
    assert drawn["batch-norm statistics"] == "known"
    assert wide.summed
    assert marks(client_mode=["eval"])[0]["no dropout masks: evaluation mode"] == ""


@pytest.mark.parametrize("inside", [Missing(3, (f"mlp, {HOSTILE}, seed 0",), 10, (("dropout_inversion", 4),))])
def test_an_unfinished_run_says_what_is_missing_and_shows_the_rest(inside, pictures, report_inputs):
    page = report.html(make_results(), pictures, **report_inputs, missing=inside)
    text = " ".join(page.split())
    assert "This run is not finished" in text
    assert "1 of 3 federations are not trained yet: mlp, &lt;script&gt;" in text
    assert "4 of 10 attack jobs on the trained ones are not finished: dropout_inversion 4" in text
    assert HOSTILE not in page
    assert "Which defense should I use?" in page
    assert "This run is not finished" not in report.html(make_results(), pictures, **report_inputs, missing=Missing(3))


def test_a_run_without_any_row_says_what_is_missing(pictures, report_inputs):
    inside = Missing(2, ("a", "b"))
    page = report.html(table.empty(), pictures, **(report_inputs | {"history": []}), missing=inside)
    assert "2 of 2 federations are not" in " ".join(page.split())


def test_attacks_that_do_better_under_a_defense_than_without_were_too_weak():
    said = advice(pl.concat([under("none", 12.0, 0.9), under("clip", 40.0, 0.9)]))
    assert said.use[0].endswith(
        "yet the strongest attack rebuilt 8 of 8 images under clip. Give them more iterations."
    ), said.use

"""The three questions at the top of the report, the drawing of the threat model, and what an unfinished run says."""

import json

import polars as pl
import pytest
from made_up_run import HOSTILE, board_rows, make_results, row, unscored

from fedsim import table
from fedsim.reporting import leaderboard, prose, report
from fedsim.reporting.advice import advise
from fedsim.reporting.diagram import diagrams
from fedsim.reporting.verdicts import verdicts
from fedsim.runs.reading import Missing


def advice(*parts):
    board = leaderboard.build(pl.concat(parts))
    return advise(board, verdicts(board))


def under(defense, psnr, utility=None, attack="dropout_inversion", **values):
    """Eight victims about a median PSNR; the defense counts by its parameters."""
    label = defense if isinstance(defense, str) else defense["name"]
    parts = [{"name": defense}] if isinstance(defense, str) else [defense]
    return board_rows(**{attack: psnr}).with_columns(
        defense=pl.lit(label), defense_params=pl.lit(json.dumps(parts)), utility=pl.lit(utility, pl.Float64), **values
    )


def test_the_cheapest_defense_that_held_is_recommended_with_its_cost():
    said = advice(
        under("none", 40.0, 0.9), under("clip", 12.0, 0.7), under({"name": "dropout", "p": 0.5}, 10.0, 0.88)
    )
    assert said.use == ["Use dropout. Under it none of the attacks tried rebuilt an image (8 images of 8 clients)."]
    assert said.cost == ["dropout: test accuracy 88 % instead of 90 %, 2 points less."]
    assert said.limits[0] == "Every attack tried here failed on it; a stronger one, or more iterations, may not."
    assert said.limits[1] == "The strongest attack was chosen on these victims."
    assert "a server that changes the model it sends" in said.limits[2]


def test_the_label_of_the_undefended_client_says_nothing():
    """With a dropout rate of the model's own the undefended client is called `none, dropout 0.25`."""
    rate = {"dropout": pl.lit(0.25)}
    said = advice(under("none", 10.0, 0.9, **rate), under("clip", 9.0, 0.85, **rate))
    assert said.use[0].startswith("This run cannot say. Without a defense the attacks tried rebuilt no image")
    said = advice(under("none", 40.0, 0.9, **rate), under("clip", 9.0, 0.85, **rate))
    assert said.use[0].startswith("Use clip")
    assert said.cost == ["clip, dropout 0.25: test accuracy 85 % instead of 90 %, 5 points less."]
    judged = verdicts(leaderboard.build(under("none", 40.0, 0.9, **rate)))
    assert [verdict.baseline for verdict in judged] == [True]


def test_where_no_defense_held_nothing_is_recommended():
    said = advice(under("none", 40.0, 0.9), under("clip", 30.0, 0.89), under("gaussian_noise", 19.0, 0.5))
    assert said.use == [
        "None of those tried is enough. gaussian_noise leaked least: the strongest attack rebuilt 4 of 8 images under "
        "it."
    ]
    assert said.cost[0].startswith("No defense is recommended, so there is no cost to weigh")


def test_a_defense_that_leaks_as_much_as_none_is_not_recommended():
    said = advice(under("none", 40.0, 0.9), under("clip", 30.0, 0.95))
    assert said.use == [
        "None of those tried helps; the strongest attack rebuilt 8 of 8 images without one, and no fewer under any."
    ]


def test_where_nothing_was_rebuilt_no_defense_is_praised():
    said = advice(under("none", 12.0, 0.9), under("clip", 10.0, 0.95))
    assert said.use[0].startswith(
        "This run cannot say. Without a defense the attacks tried rebuilt no image, so that none can be seen to help."
    )


def test_an_attack_that_never_knew_the_defense_is_no_evidence_for_it():
    said = advice(under("none", 40.0, 0.9), under("gaussian_noise", 8.0, 0.9))
    assert said.use == [
        "This run recommends none. No image was rebuilt under gaussian_noise, but no attack that takes it into account "
        "was tried."
    ]


def test_what_is_no_better_than_a_guess_is_not_said_to_have_rebuilt_nothing():
    """One of eight images was rebuilt, and the median is the guess's."""
    some = under("pruning", 19.0).with_columns(leaked_psnr=pl.col("client") == 7)
    guess = under("pruning", 25.0, attack="null_mean")
    said = advice(under("none", 40.0), some, guess).use[0]
    assert "No image was rebuilt" not in said
    assert "The strongest attack did no better than a guess that ignores the update under pruning, but" in said


def test_a_defense_under_which_no_attack_had_an_answer_is_said_to_be_unknown():
    declined = {"attack": "imprint", "status": "not_applicable", "reason": ""}
    silent = [unscored(defense="dp_sgd", client=client, **declined) for client in range(8)]
    said = advice(under("none", 40.0), under("clip", 30.0), table.frame(silent))
    assert said.use[-1] == "Under dp_sgd no attack had an answer, which says nothing for it."


def test_failed_attacks_are_no_evidence():
    """Six of eight attacks on the defense failed, the others rebuilt nothing."""
    clip = {"defense": "clip", "attack": "dropout_inversion"}
    rows = [row(**clip, client=c, psnr=8.0) for c in range(2)]
    rows += [unscored(**clip, client=c, status="failed", reason="memory", observed=True) for c in range(2, 8)]
    said = advice(under("none", 40.0), table.frame(rows))
    assert "but 6 attacks have failed" in said.use[0]
    assert not said.use[0].startswith("Use")


def test_an_informed_attack_that_is_weaker_than_a_naive_one_is_no_evidence():
    dropout = {"name": "dropout", "p": 0.5}
    naive = under(dropout, 14.0, attack="inverting_gradients")
    said = advice(under("none", 40.0), under("none", 40.0, attack="inverting_gradients"), under(dropout, 9.0), naive)
    assert "dropout inversion, which takes it into account, is weaker (9.0 dB) than inverting gradients" in said.use[0]


def test_an_informed_attack_that_is_weaker_by_less_than_is_printed_is_not_called_so():
    dropout = {"name": "dropout", "p": 0.5}
    plain = [under("none", 40.0), under("none", 40.0, attack="inverting_gradients")]
    said = advice(*plain, under(dropout, 9.0), under(dropout, 9.01, attack="inverting_gradients"))
    assert "is weaker" not in said.use[0]


def test_an_informed_attack_that_stopped_at_its_budget_is_no_evidence():
    said = advice(under("none", 40.0), under("clip", 9.0, stopped=pl.lit("budget")))
    assert "dropout inversion stopped at its budget of iterations before it converged" in said.use[0]
    assert advice(under("none", 40.0), under("clip", 9.0, stopped=pl.lit("patience"))).use[0].startswith("Use clip")


def test_an_informed_attack_that_does_not_rebuild_the_undefended_client_is_no_evidence():
    dropout = {"name": "dropout", "p": 0.5}
    said = advice(under("none", 12.0), under("none", 40.0, attack="inverting_gradients"), under(dropout, 9.0))
    assert "but dropout inversion does not rebuild the undefended client" in said.use[0]


def test_without_the_undefended_client_nothing_is_recommended():
    assert "but the undefended client was not attacked" in advice(under("clip", 9.0)).use[0]


def test_what_tells_whose_image_it_is_is_no_protection():
    """Half of its patches tell a digit from a thousand others, at 13 dB."""
    known = under("clip", 9.0, identified=pl.col("client") < 2)
    said = advice(under("none", 40.0), known)
    assert "but what dropout inversion made of it identifies 25 % of the images" in said.use[0]
    assert advice(under("none", 40.0), under("clip", 9.0, identified=pl.lit(False))).use[0].startswith("Use clip")


def test_fewer_than_six_clients_recommend_nothing():
    few = [part.filter(pl.col("client") < 5) for part in (under("none", 40.0), under("clip", 9.0))]
    assert "but 5 clients are too few for an interval (6 are needed)" in advice(*few).use[0]


def test_a_defense_that_cannot_be_told_from_none_is_not_recommended():
    said = advice(under("none", 19.05), under("clip", 18.4))
    assert "its interval and that of the undefended client overlap" in said.use[0]


def test_defenses_of_which_the_same_is_true_share_a_sentence():
    names = [f"noise{i}" for i in range(14)]
    said = advice(under("none", 40.0), *(under(name, 9.0) for name in names))
    assert said.use[0].count("no attack that takes it into account") == 1
    assert "noise0, noise1, noise2, noise3 and 10 more" in said.use[0]
    board = leaderboard.build(pl.concat([under("none", 40.0), *(under(name, 9.0) for name in names)]))
    assert prose.answer(verdicts(board), failed=0).count("cannot be excluded") == 1


def test_a_defense_that_leaks_more_than_none_is_named():
    said = advice(under("none", 20.0), under({"name": "dropout", "p": 0.25}, 45.0))
    assert "dropout leaks more than no defense: a median of 45.0 dB against 20.0." in said.limits


def test_ranges_of_few_clients_do_not_say_that_more_leaks():
    few = [part.filter(pl.col("client") < 5) for part in (under("none", 20.0), under("clip", 45.0))]
    assert not any("leaks more" in text for text in advice(*few).limits)


def test_models_that_need_different_defenses_are_told_apart():
    leaky = pl.concat([under("none", 40.0, 0.9), under("clip", 12.0, 0.8)])
    tight = pl.concat([under("none", 12.0, 0.9), under("clip", 12.0, 0.8)]).with_columns(model=pl.lit("vit"))
    first, second = advice(leaky, tight).use
    assert first.startswith("On mnist · mlp: use clip. Under it none of the attacks tried rebuilt an image")
    assert second.startswith("On mnist · vit: this run cannot say. Without a defense the attacks tried rebuilt no")


def test_the_cost_on_many_models_is_one_sentence():
    parts = [
        pl.concat([under("none", 40.0, 0.9), under("clip", 12.0, 0.9 - cost)]).with_columns(model=pl.lit(name))
        for name, cost in (("a", 0.02), ("b", 0.05), ("c", 0.03))
    ]
    expected = "clip: 2 to 5 points of test accuracy, depending on the model; the table has each."
    assert advice(*parts).cost == [expected]


def test_a_cost_has_the_digits_that_its_interval_carries():
    def measured(images):
        size = {"utility_images": pl.lit(images)}
        return advice(under("none", 40.0, 0.9, **size), under("clip", 12.0, 0.86, **size)).cost

    assert measured(1000) == ["clip: test accuracy 86 % instead of 90 %, 4 ± 3 points less."]
    assert measured(100_000) == ["clip: test accuracy 86.0 % instead of 90.0 %, 4.0 ± 0.3 points less."]
    assert "which cannot be told from no loss" in measured(100)[0]


def test_a_cost_of_another_form_of_sharing_says_so():
    form = {"rounds": 30, "share": "weights", "steps": 5, "batch_size": 32, "same_form": False}
    other = {"cost_of": pl.lit(json.dumps(form))}
    said = advice(under("none", 40.0, 0.9, **other), under("clip", 12.0, 0.8, **other))
    assert said.cost[1].startswith("This was measured where clients share the weights after 5 steps of 32")
    same = {"cost_of": pl.lit(json.dumps(form | {"same_form": True}))}
    assert len(advice(under("none", 40.0, 0.9, **same), under("clip", 12.0, 0.8, **same)).cost) == 1


def test_a_baseline_that_was_not_trained_to_the_end_says_so():
    far = {"utility_reachable": pl.lit(0.94)}
    said = advice(under("none", 40.0, 0.88, **far), under("clip", 12.0, 0.8, **far))
    assert "came to 88 % of the 94 % that this model reaches" in said.cost[-1]
    assert not any("reaches" in text for text in advice(under("none", 40.0, 0.93, **far)).cost)


def test_a_defense_without_measured_cost_is_not_called_free():
    assert advice(under("none", 40.0), under("clip", 12.0)).cost == ["The cost of clip was not measured."]


def test_an_oracle_that_gets_through_is_named_as_one():
    oracle = under("clip", 50.0, 0.8, "well_informed", oracle=pl.lit(value=True))
    said = advice(under("none", 40.0, 0.9), under("clip", 12.0, 0.8), oracle)
    assert said.use[0].startswith("Use clip")
    assert "an attacker who is told what no real server knows: well informed (8 of 8 images)" in said.limits[0]


def test_what_was_tried_is_not_listed_as_untried():
    tried = {"threat_server": "malicious", "threat_defense": "known", "threat_auxiliary_data": "public"}
    said = advice(under("none", 40.0).with_columns(**{name: pl.lit(value) for name, value in tried.items()}))
    assert not any(sentence.startswith("Not tried") for sentence in said.limits)


def test_an_attack_that_takes_a_defense_into_account_was_tried_by_whichever_grant():
    knows = "an attacker who knows the defense and adapts to it"
    dropped = under({"name": "dropout", "p": 0.5}, 30.0, attack="dropout_inversion")
    assert knows not in advice(under("none", 40.0), dropped).limits[-1]
    assert knows in advice(under("none", 40.0), under("gaussian_noise", 30.0)).limits[-1]


def test_what_a_floor_is_given_was_not_tried():
    floor = under("none", 12.0, attack="null_mean", threat_auxiliary_data=pl.lit("public"))
    assert "an attacker with images of the same kind" in advice(under("none", 40.0), floor).limits[-1]


def test_no_answer_no_advice():
    board = leaderboard.build(table.empty())
    assert advise(board, verdicts(board)) is None


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
        "yet the strongest attack rebuilt 8 of 8 images under clip. Give the attacks more iterations, or take stronger "
        "ones."
    ), said.use


def test_an_attack_that_replays_takes_into_account_what_it_is_granted_to_know():
    """Unless the defense draws something that the attack does not look for."""
    from fedsim.reporting.naming import needed_for

    for name in ("pruning", "sign", "quantization", "gaussian_noise", "dp_sgd"):
        assert needed_for("inverting_gradients", name) == needed_for("dropout_inversion", name) == "defense", name
        assert needed_for("null_mean", name) is False
    for name in ("mixup", "cutmix", "dropconnect", "stochastic_depth", "precode"):
        assert needed_for("inverting_gradients", name) is False, name
        assert needed_for("dropout_inversion", name) == needed_for("cascade", name) == "defense", name
    assert needed_for("inverting_gradients", "secure_aggregation") == "defense"
    assert needed_for("sparse_dictionary", "secure_aggregation") is None
    assert needed_for("inverting_gradients", "dropout") is False
    assert needed_for("dropout_inversion", "dropout") == "dropout_rate"
    assert needed_for("inverting_gradients", "clip") is None
    assert needed_for("no_such_attack", "clip") is False


def test_an_attack_that_weighs_noise_takes_into_account_what_the_defense_says_of_its_own():
    from fedsim.reporting.naming import needed_for

    for name in ("gradient_dropout", "training_randomness", "local_dp", "dp_sgd", "pruning"):
        assert needed_for("first_linear", name) == "defense", name
    for name in ("censor", "dropconnect", "mixup"):
        assert needed_for("first_linear", name) is False, name
    assert needed_for("april", "gaussian_noise") is False
    for attack in ("inverting_gradients", "dropout_inversion", "first_linear"):
        assert needed_for(attack, "instahide") is needed_for(attack, "dcs") is False  # replay undoes neither
    assert needed_for("inverting_gradients", "ats") == "defense"

"""What is tried of whom."""

from __future__ import annotations

import audit_apps as apps
import torch

from attacks import LocalTraining
from fedsim.audit.adversaries import Budget, plan
from fedsim.audit.observing import Reply
from fedsim.audit.told import Told


def planned(model: str = "Perceptron", *, budget: Budget | None = None, **changes):
    played = changes.pop("played", {})
    torch.manual_seed(0)
    fields = {"shape": (1, 28, 28), "classes": 10, "mean": (0.5,), "std": (0.5,), "batch_size": 1}
    told = Told(
        model=f"audit_apps:{model}", **{**fields, "local": LocalTraining(learning_rate=0.1), **changes}
    )
    reply = Reply.of(apps.reply(getattr(apps, model)(), **played), told, told.build())
    return plan(reply, told, budget or Budget())


def test_who_knows_less_is_told_less():
    granted = {attempt.letter: attempt.grants for attempt in planned().attempts}
    assert granted["A"]["batch_size"] == granted["A"]["local_training"] == "unknown"
    assert (granted["B"]["batch_size"], granted["B"]["local_training"]) == ("known", "unknown")
    assert granted["C"]["local_training"] == granted["C"]["dropout_rate"] == "known"
    assert all(attempt.grants["labels"] in ("inferred", "unknown") for attempt in planned().attempts)


def test_one_image_in_one_step_is_also_looked_for_as_a_smooth_one():
    smooth = [attempt for attempt in planned().attempts if attempt.attack["name"] == "cut"]
    assert [(attempt.letter, attempt.where) for attempt in smooth] == [("C", "uncertain")] * 2
    assert [attempt.attack["total_variation"] for attempt in smooth] == [0.03, 0.3]
    two = planned(batch_size=2, played={"images": 2, "batch": 2})
    assert "cut" not in {attempt.attack["name"] for attempt in two.attempts}


def test_batch_norm_statistics_that_come_back_make_the_letter_e():
    found = planned("Normalised", batch_size=4, played={"images": 4, "batch": 4})
    assert any(attempt.letter == "E" and attempt.attack["name"] == "gradinversion" for attempt in found.attempts)
    assert "E" in planned().untried


def test_what_is_beyond_the_budget_is_left_to_closed_forms_and_said():
    found = planned(batch_size=8, budget=Budget(images=4), played={"images": 8, "batch": 8})
    assert {a.attack["name"] for a in found.attempts} == {
        "april", "cocktail_party", "fidel", "first_linear", "patch_embedding", "sparse_dictionary",
        "spear",
    }  # fmt: skip
    assert [limit[0] for limit in found.limits] == ["B", "C"]


def test_what_was_not_said_is_asked_for():
    found = planned(local=None)
    assert "--lr" in found.untried["C"]
    found = planned(local=None, batch_size=None, played={"images": 1})
    assert "B" not in found.untried  # the client says how many images it has

"""An audit from a store to its verdict."""

from __future__ import annotations

import json

import audit_apps as apps
import numpy as np
import polars as pl
import pytest
import torch

from attacks import LocalTraining
from fedsim.audit.adversaries import Budget
from fedsim.audit.attempted import Tried
from fedsim.audit.auditing import audit_store
from fedsim.audit.page import labels
from fedsim.audit.told import Told
from fedsim.audit.verdict import lines, verdict
from fedsim.audit.working import lay_out
from fedsim.errors import BadInput
from fedsim.recording import Store
from fedsim.runs.directory import RunDirectory
from fedsim.table import read


def told(model: str = "Perceptron", **changes) -> Told:
    fields = {"shape": (1, 28, 28), "classes": 10, "mean": (0.5,), "std": (0.5,), "batch_size": 1}
    return Told(model=f"audit_apps:{model}", **{**fields, "local": LocalTraining(learning_rate=0.1), **changes})


@pytest.fixture(scope="module")
def perceptron(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("audit")
    path = apps.store(folder / "store", apps.reply(apps.Perceptron()))
    return audit_store(path, told(), folder / "audit")


def test_one_image_through_a_linear_layer_leaks_to_whoever_sees_the_update(perceptron):
    kinds = {row.letter: row.kind for row in perceptron.verdict.rows}
    assert perceptron.verdict.kind == "leaks"
    assert kinds == {**dict.fromkeys("ABC", "leaks"), **dict.fromkeys("DEFGH", "not tried")}


def test_what_is_called_rebuilt_is_the_clients_image(perceptron):
    pixels, _ = apps.digits()
    directory = RunDirectory(perceptron.path)
    for row in perceptron.verdict.rows[:3]:
        found = next(directory.path.glob(f"scores/{row.best.job}"))
        job = read(found / "rows.parquet")
        assert job["status"].to_list() == ["ok"]
        with np.load(found / "pictures.npz") as pictures:
            [image] = pictures["reconstruction"]
        assert abs(image.astype(int).reshape(28, 28) - pixels[0, 0].numpy().astype(int)).max() <= 1


def test_the_verdict_is_machine_readable_and_says_what_was_not_tried(perceptron):
    said = json.loads((perceptron.path / "verdict.json").read_text())
    assert (said["format"], said["version"], said["verdict"]) == ("fedsim-verdict", 1, "leaks")
    assert [row["letter"] for row in said["threat_models"]] == list("ABCDEFGH")
    assert any("honest server" in text and "--canary" in text for text in said["not_tried"])


def test_the_page_shows_pictures_and_asks_the_network_for_nothing(perceptron):
    page = (perceptron.path / "audit.html").read_text()
    answered = sum(one.images > 0 for one in perceptron.verdict.tried)
    assert page.count("data:image/webp") == answered >= 3
    assert "src=\"http" not in page
    assert "It leaks" in page


def test_a_second_audit_computes_nothing_anew(perceptron, monkeypatch):
    monkeypatch.setattr("fedsim.audit.working.attack", lambda *rest: pytest.fail("attacked again"))
    again = audit_store(perceptron.path.parent / "store", told(), perceptron.path)
    assert again.rows.equals(perceptron.rows)


def test_of_answers_that_nobody_can_judge_none_is_called_the_best():
    """An attack that answers more images than there were is not better for it."""
    rows = {**dict.fromkeys(Tried.__dataclass_fields__), "letter": "A", "rebuilt": 0, "reason": "", "beyond": ""}
    few, many = (
        Tried(**{**rows, "attack": name, "stage": "", "images": images, "scored": False, "stopped": stopped})
        for name, images, stopped in (("fidel", 1, None), ("cocktail_party", 66, "budget"))
    )
    found = verdict([few, many], {}, limits=(), more=(), findings=())
    assert found.rows[0].kind == "undecided"
    assert found.rows[0].says.startswith("fidel and cocktail party answered with images (stopped at its budget); how")


def test_a_leak_states_what_may_make_it_one():
    rows = {**dict.fromkeys(Tried.__dataclass_fields__, ""), "letter": "A", "subject": "a canary"}
    alike = {"scored": True, "images": 1, "of": 1, "rebuilt": 1, "psnr": 15.8, "ssim": 0.64, "stage": ""}
    found = verdict([Tried(**{**rows, **alike, "attack": "cut"})], {}, limits=(), more=(), findings=())
    assert found.rows[0].says.endswith("rebuilt by cut, the best to 15.8 dB and an SSIM of 0.64")


def test_an_attack_without_certainty_is_neither_a_leak_nor_a_defense(tmp_path):
    torch.manual_seed(0)
    path = apps.store(tmp_path / "store", apps.reply(apps.Convolutional()))
    found = audit_store(path, told("Convolutional"), tmp_path / "audit", budget=Budget(iterations=5)).verdict
    kinds = {row.letter: row.kind for row in found.rows}
    assert (kinds["A"], kinds["B"], kinds["C"]) == ("no answer", "undecided", "undecided")
    assert found.kind == "undecided"
    assert not found.leaks


def test_clients_that_defend_themselves_are_audited_as_well(tmp_path):
    torch.manual_seed(0)
    recorded = apps.reply(apps.Perceptron())
    change = {name: recorded.received[name] - value for name, value in recorded.sent.items()}
    length = torch.cat([value.flatten() for value in change.values()]).norm()
    recorded.received.update({n: v + change[n] * 0.01 / length for n, v in recorded.sent.items()})
    path = apps.store(tmp_path / "store", recorded)
    setting = told(defense=({"name": "clip", "norm": 0.01},))
    found = audit_store(path, setting, tmp_path / "audit", budget=Budget(iterations=5)).verdict
    assert {row.letter: row.kind for row in found.rows}["C"] == "leaks"  # scaling hides nothing
    assert not [one for one in found.findings if one["wrong"]]


def test_a_reply_that_cannot_be_audited_costs_itself_only(tmp_path):
    torch.manual_seed(0)
    good = apps.reply(apps.Perceptron())
    other = apps.reply(apps.Perceptron(16), node="18")
    still = apps.reply(apps.Perceptron(), node="19")
    still.received.update(still.sent)
    path = apps.store(tmp_path / "store", good, other, still)
    done = audit_store(path, told(), tmp_path / "audit")
    assert len(done.subjects) == 1
    reasons = {fault.node: fault.reason for fault in done.faults}
    assert "first.weight has shape 16x784, the model's has 32x784" in reasons["18"]
    assert "nothing was trained" in reasons["19"]
    assert all(reason in (done.path / "audit.html").read_text() for reason in ("nothing was trained",))


def test_a_store_without_any_usable_reply_is_refused_and_nothing_is_written(tmp_path):
    path = apps.store(tmp_path / "store", apps.reply(apps.Perceptron(16)))
    with pytest.raises(BadInput, match="no reply can be audited"):
        audit_store(path, told(), tmp_path / "audit")
    assert not (tmp_path / "audit").exists()


def test_too_many_images_are_left_to_closed_forms_and_that_is_said(tmp_path):
    path = apps.store(tmp_path / "store", apps.reply(apps.Convolutional(), images=40, batch=8))
    local = LocalTraining(learning_rate=0.1, epochs=1)
    setting = told("Convolutional", batch_size=8, local=local)
    found = audit_store(path, setting, tmp_path / "audit", budget=Budget(images=32)).verdict
    assert found.kind == "no answer"
    assert any("C: 40 images over 5 steps are beyond the budget" in text for text in found.limits)


def test_an_attack_without_an_answer_is_named_once_with_its_reasons(tmp_path):
    replies = (apps.reply(apps.Convolutional(), images=40, batch=8, node=node) for node in ("17", "18", "19"))
    path = apps.store(tmp_path / "store", *replies)
    setting = told("Convolutional", batch_size=8, local=LocalTraining(learning_rate=0.1, epochs=1))
    done = audit_store(path, setting, tmp_path / "audit", budget=Budget(images=32))
    page = " ".join((done.path / "audit.html").read_text().split())
    said, unanswered = page.split("What had no answer")
    assert said.count("cocktail party") == 1  # of the verdict's letters the later ones say `as A`
    assert unanswered.count("cocktail party") == 1
    assert "3 of 3" in unanswered
    assert "the first layer with parameters is" in unanswered
    assert "What was rebuilt" not in page
    assert [line for line in lines(done.verdict) if line.endswith("as A")]


def test_attempts_of_one_attack_are_told_apart_by_their_parameters():
    blank = {**dict.fromkeys(Tried.__dataclass_fields__, ""), "letter": "C", "attack": "cut"}
    jobs = {"a": "cut", "b": "cut", "c": "dlg"}
    tried = [Tried(**{**blank, "job": job, "attack": attack}) for job, attack in jobs.items()]
    params = [json.dumps({"iterations": 9, "total_variation": weight}) for weight in (0.1, 0.2, 0.3)]
    rows = pl.DataFrame({"job": ["a", "b", "c"], "attack_params": params})
    assert labels(rows, tried) == ["C · cut, total_variation=0.1", "C · cut, total_variation=0.2", "C · dlg"]


def test_whoever_asked_for_a_canary_is_not_told_to_ask_for_one():
    failed = {"about": "Canary", "says": "the client app raised KeyError", "wrong": True, "of": ["round 1, canary"]}
    said = [list(lines(verdict([], {}, limits=(), more=(), findings=each))) for each in ([failed], [])]
    assert [any(line.startswith("next:") for line in each) for each in said] == [False, True]


def test_what_the_attacks_are_given_holds_no_truth(tmp_path):
    from fedsim.audit.observing import Reply
    from fedsim.audit.working import Subject

    path = apps.store(tmp_path / "store", apps.reply(apps.Perceptron()))
    reply = Reply.of(Store.open(path).read(1, "17"), told(), told().build())
    directory = RunDirectory(tmp_path / "run")
    key = lay_out(directory, Subject("x", reply, 0, told()), "told", source="")
    assert not (directory.cell(key) / "truth").exists()
    assert not (directory.cell(key) / "grants").exists()

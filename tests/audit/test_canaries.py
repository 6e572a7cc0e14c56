"""Canaries in an audit: scored against what the client trained on, swept, defended, and never told to an attack."""

from __future__ import annotations

import json
import sys

import client_apps as apps
import numpy as np
import pytest
import torch
from client_variants import VARIANTS

from attacks import LocalTraining
from defenses.client import optimizers
from fedsim.audit.adversaries import Budget
from fedsim.audit.auditing import audit_store
from fedsim.audit.canaries import Point, Sweep, _played, pictures
from fedsim.audit.canaries_malicious import _first_changed, changed_canaries
from fedsim.audit.canary import play
from fedsim.audit.choosing import chosen
from fedsim.audit.told import Told
from fedsim.errors import BadInput
from fedsim.paths import look_beside
from fedsim.recording import Recorded, Store
from fedsim.runs.directory import RunDirectory

MODEL = """
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(768, 64)
            self.fc2 = nn.Linear(64, 10)

        def forward(self, x):
            return self.fc2(F.dropout(F.relu(self.fc1(x.flatten(1))), 0.25, self.training))
"""


def told(**changes) -> Told:
    local = LocalTraining(learning_rate=0.05, epochs=1, optimizer=optimizers.create("sgd", momentum=0.9))
    fields = {"model": "my_app.task:Net", "shape": (3, 16, 16), "classes": 10, "mean": apps.MEAN, "std": apps.STD}
    return Told(**{**fields, "batch_size": 4, "local": local, **changes})


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A folder with an app, a store of one of its replies, and images."""
    folder = tmp_path_factory.mktemp("canaries")
    app = apps.written(folder / "app", model=MODEL)
    model = apps.model_of(app)
    sent = {name: value.clone() for name, value in model.state_dict().items()}
    received = {name: value + 0.01 * torch.randn_like(value) for name, value in sent.items()}
    store = Store.create(folder / "store")
    store.add(Recorded(1, "17", sent, received, {"num-examples": 40}, {"lr": 0.05}))
    pixels, labels = apps.photographs(6)
    np.savez(folder / "images.npz", x=pixels.permute(0, 2, 3, 1).numpy(), y=labels.numpy(), classes=list("0123456789"))
    look_beside(app)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_app"]:
        del sys.modules[name]
    yield folder
    look_beside(None)


@pytest.fixture(scope="module")
def audit(setting):
    sweep = Sweep(app=setting / "app", images=setting / "images.npz", batches=(1, 3), steps=(1, 2))
    return audit_store(
        setting / "store", told(), setting / "audit", sweep=sweep, budget=Budget(iterations=30), replies=1
    )


def test_a_canary_of_one_image_is_rebuilt_and_scored(audit):
    first = audit.verdict.sweep[0]
    assert (first.batch_size, first.steps, first.replay) == (1, 1, "")
    assert first.best.scored
    assert first.best.rebuilt == 1
    assert first.best.psnr > 60
    assert audit.verdict.kind == "leaks"


def test_the_sweep_says_how_far_images_were_rebuilt_and_what_was_tried(audit):
    points = {(one.batch_size, one.steps) for one in audit.verdict.sweep}
    assert {(1, 1), (3, 1), (1, 2), (4, 2)} == points
    said = json.loads((audit.path / "verdict.json").read_text())["largest"]
    assert said["tried_batch_size"] == 4
    assert said["tried_steps"] == 2
    assert said["batch_size"] >= 1


def test_scores_are_of_the_clients_images_and_no_attack_was_told_their_labels(audit):
    scored = audit.rows.filter(audit.rows["psnr"].is_not_null())
    assert len(scored)
    assert set(audit.rows["threat_labels"]) <= {"inferred", "unknown"}
    directory = RunDirectory(audit.path)
    for subject, _ in audit.subjects:
        assert (subject.truth is None) == subject.name.endswith("node 17")
    assert list(directory.path.glob("cells/*/truth/*.safetensors"))


def test_a_server_that_changes_the_model_is_played_and_the_one_that_lacks_images_is_named(audit):
    """`fishing` lets one image of a batch of six alone into the gradient; all rows of it are of a malicious server."""
    rows = {row.letter: row for row in audit.verdict.rows}
    assert (rows["F"].kind, rows["F"].best.attack) == ("leaks", "fishing")
    assert rows["F"].best.subject == "round 1, canary sent the model of fishing: batch 6, 1 step"
    assert rows["F"].best.psnr > 60
    assert (rows["G"].kind, rows["G"].says) == (
        "not tried", "trap_weights needs 16 more images in --canary, which stand for public ones"
    )  # fmt: skip
    assert rows["H"].says == "no attack of fedsim makes use of choosing the clients"
    letters = dict(audit.rows.select("letter", "threat_server").unique().iter_rows())
    assert letters["F"] == "malicious"
    assert {letters[letter] for letter in "ABC"} == {"passive"}


def test_trap_weights_are_tried_with_images_to_spare(setting):
    pixels, labels = apps.photographs(40)
    np.savez(setting / "more.npz", x=pixels.permute(0, 2, 3, 1).numpy(), y=labels.numpy(), classes=list("0123456789"))
    sweep = Sweep(
        app=setting / "app", images=setting / "more.npz", batches=(1,), steps=(1,), own=False, defenses=False
    )
    seen = chosen(Store.open(setting / "store").read(1, "17"), told().build())
    found = list(changed_canaries(sweep, seen, told(), told().build(), Budget(iterations=5), say=lambda line: None))
    assert [attempt.letter for _, attempt in found] == ["F", "G"]
    for subject, attempt in found:
        honest = seen.recorded.sent
        sent = subject.reply.state
        assert [name for name in honest if not torch.equal(sent[name], honest[name])] == {
            "F": ["fc2.weight", "fc2.bias"],
            "G": ["fc1.weight", "fc1.bias"],
        }[attempt.letter]
        assert (subject.server, subject.told.batch_size) == ("malicious", 8)


def test_a_model_whose_first_layer_is_no_linear_one_is_sent_that_of_ares(setting):
    class Convolutional(torch.nn.Sequential):
        def __init__(self):
            between = [torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 64, 20), torch.nn.ReLU()]
            super().__init__(torch.nn.Conv2d(3, 4, 2, stride=2), *between, torch.nn.Linear(20, 10))

    pixels = apps.photographs(40)[0]
    public = (pixels.float() / 255 - 0.5) / 0.5
    model = Convolutional()
    seen = chosen(Recorded(1, "17", dict(model.state_dict()), dict(model.state_dict())), model)
    specs = [{"name": "trap_weights"}, {"name": "ares"}]
    spec, sent = _first_changed(seen, specs, told(), model, public)
    assert spec == {"name": "ares"}
    honest = seen.recorded.sent
    changed = [name for name in honest if not torch.equal(sent.recorded.sent[name], honest[name])]
    assert changed == ["0.weight", "0.bias", "3.weight", "3.bias"]


def test_a_model_that_cannot_be_changed_is_named(setting):
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.only = torch.nn.Conv2d(3, 10, 16)

        def forward(self, x):
            return self.only(x).flatten(1)

    sweep = Sweep(app=setting / "app", images=setting / "images.npz")
    model = Bare()
    seen = chosen(Recorded(1, "17", dict(model.state_dict()), dict(model.state_dict())), model)
    first, second = changed_canaries(sweep, seen, told(), model, Budget(iterations=5), say=lambda line: None)
    assert first.letter == "F"
    assert first.why.startswith("fishing cannot change this model: ")
    assert first.why.count("fishing") == 1
    assert second.letter == "G"
    assert second.why.startswith("trap_weights cannot change this model: ") or "more images" in second.why


def test_what_the_canary_sees_is_held_against_what_was_said(setting):
    wrong_told = told(local=LocalTraining(learning_rate=0.1), batch_size=8)
    sweep = Sweep(app=setting / "app", images=setting / "images.npz", batches=(1,), steps=(1,), own=False)
    found = audit_store(
        setting / "store", wrong_told, setting / "other", sweep=sweep, budget=Budget(iterations=5), replies=1
    )
    said = " | ".join(one["says"] for one in found.verdict.findings if one["wrong"])
    assert "learning rate: the client has 0.05, and what was said is 0.1" in said
    assert "momentum: the client has 0.9, and what was said is 0" in said
    assert "batches of 4, and what was said is 8" in said


def test_defenses_are_tried_on_the_canary_that_was_rebuilt_and_others_are_named(audit):
    tried = {one.defense.partition("(")[0] for one in audit.verdict.defenses}
    assert {"clip", "pruning", "sign", "gaussian_noise"} == tried
    clipped = next(one for one in audit.verdict.defenses if one.defense.startswith("clip"))
    assert clipped.best.rebuilt == 1  # scaling hides nothing
    assert all(one.kept is None or one.kept <= 1.5 for one in audit.verdict.defenses)
    assert any("not tried in your app: DP-SGD" in text for text in audit.verdict.untried)


def test_the_page_shows_originals_the_sweep_and_the_defenses(audit):
    page = (audit.path / "audit.html").read_text()
    for words in ("original", "How large a batch", "What a defense would do", "it is no sign of safety"):
        assert words in page
    assert "stops leaking" not in page


def test_a_client_that_cannot_be_played_is_a_finding_and_the_rest_is_audited(setting, tmp_path):
    broken = apps.written(tmp_path / "broken", model=MODEL, train="def fit(*all):\n    raise ValueError('no')\n")
    sweep = Sweep(app=broken, images=setting / "images.npz", batches=(1,), steps=(1,))
    found = audit_store(
        setting / "store", told(), tmp_path / "audit", sweep=sweep, budget=Budget(iterations=5), replies=1
    )
    assert found.verdict.sweep == ()
    assert any(one["about"] == "Canary" and "ValueError" in one["says"] for one in found.verdict.findings)
    assert (found.path / "audit.html").exists()


@pytest.mark.parametrize(("changes", "said"), [({"shape": (1, 16, 16), "mean": (0.5,), "std": (0.5,)}, "--data-shape")])
def test_images_that_do_not_fit_are_refused(setting, changes, said):
    with pytest.raises(BadInput, match=said):
        pictures(Sweep(app=setting, images=setting / "images.npz"), told(**changes))


def test_images_that_the_client_mixes_are_the_truth_all_the_same(tmp_path):
    mixed = VARIANTS["mixup"]
    app = apps.written(tmp_path / "app", train=mixed.train)
    model, (pixels, labels) = apps.model_of(app), apps.photographs(8)
    canary = play(app, apps.a_message(model), pixels, labels, mean=apps.MEAN, std=apps.STD)
    assert canary.order == ((), ())
    found = _played(canary, told(), model, own=True)
    assert torch.equal(found.subject.truth.images, pixels)
    assert found.batch_size == 4
    assert any("other images than its DataLoader gave" in finding.says for finding in found.subject.findings)


def test_points_beyond_the_images_are_left_out():
    sweep = Sweep(app=None, images=None, batches=(1, 2, 8), steps=(1, 4))
    assert sweep.points(4) == [Point(1, 1), Point(2, 2), Point(1, 4)]


def test_a_canary_for_which_there_are_too_few_images_is_named():
    sweep = Sweep(app=None, images=None, batches=(1, 2, 8, 320), steps=(1, 4))
    assert sweep.beyond(4, 64) == "canaries of 8, 320 images were not played: 4 different ones are there"
    assert sweep.beyond(1000, 64) == "canaries of 320 images were not played: at most 64 are attacked"
    assert sweep.beyond(320, 320) == ""

"""`fedsim audit`: exit codes, and bad input in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from fedsim.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "audit"))
import audit_apps as apps

GOOD = ["--model", "audit_apps:Perceptron", "--data-shape", "1,28,28", "--classes", "10", "--batch-size", "1"]


@pytest.fixture
def cli(monkeypatch, tmp_path, capsys):
    """Run `fedsim audit store` with these words besides; returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "500")
    torch.manual_seed(0)
    apps.store(tmp_path / "store", apps.reply(apps.Perceptron()))

    def call(*words: str, store: str = "store") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fedsim", "audit", store, *words])
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    return call


def test_a_leak_is_exit_code_3_where_that_is_asked_for(cli, tmp_path):
    code, out, _ = cli(*GOOD, "--lr", "0.1", "--fail-on-leak")
    assert code == 3
    assert "It leaks" in out
    assert json.loads((tmp_path / "audit" / "verdict.json").read_text())["verdict"] == "leaks"
    assert cli(*GOOD, "--lr", "0.1")[0] == 0  # what is there is found again


def test_without_a_learning_rate_the_letter_c_is_not_tried(cli):
    _, out, _ = cli(*GOOD)
    assert "C  not tried  how clients train was not said: --lr" in out


def test_a_schedule_and_groups_are_part_of_the_training(cli, tmp_path):
    words = ("--schedule", "step: {every: 1, gamma: 0.5}", "--group", "{parameters: ['*.bias'], scale: 2}")
    assert cli(*GOOD, "--lr", "0.1", *words)[0] == 0
    [marker] = [json.loads(path.read_text()) for path in (tmp_path / "audit").glob("*run.json")]
    local = marker["audit"]["local"]
    assert local["schedule"] == {"name": "step", "every": 1, "gamma": 0.5}
    assert [(group["parameters"], group["scale"]) for group in local["groups"]] == [(["*.bias"], 2)]


def test_the_terminal_says_what_cannot_be_what_was_tried_in_part_and_what_comes_next(cli, tmp_path):
    apps.store(tmp_path / "many", apps.reply(apps.Convolutional(), images=66, batch=33))
    words = ["--model", "audit_apps:Convolutional", *GOOD[2:-1], "33", "--lr", "0.001", "--steps", "2"]
    code, out, _ = cli(*words, store="many")
    assert code == 0
    assert "in part: C: 66 images over 2 steps are beyond the budget of 64 images and 32 steps: closed" in out
    assert "cannot be: " in out
    assert "the rate, the steps or the momentum is larger" in out
    assert "next: let your client train on images of yours" in out
    assert "next:" not in cli(*GOOD, "--lr", "0.1", "--out", "leak")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data-shape", "28,28"], "takes channels, height, width"),
        (["--data-shape", "1,28,x"], "whole numbers with commas between"),
        (["--classes", "1"], "there are at least 2"),
        (["--mean", "0.5,0.5"], "2 values for 1 channels"),
        (["--std", "0"], "above 0"),
        (["--model", "audit_apps:Nothing"], "has no function 'Nothing'"),
        (["--model", "audit_apps.Perceptron"], "write it as package.module:function"),
        (["--model", "audit_apps:Nested"], "its forward takes something else than one tensor of images"),
        (["--model", "audit_apps:Answering"], "returned a Answer of loss, logits, not a tensor: say by --output"),
        (["--model", "audit_apps:Convolutional"], "no reply can be audited"),
        (["--model-arg", "width=["], "is not a YAML value"),
        (["--model-arg", "depth=3"], "it takes width"),
        (["--lr", "0"], "above 0"),
        (["--defense", "clip: {length: 1}"], "length"),
        (["--defense", "clipp"], "clipp"),
        (["--defense", "[clip]"], "takes NAME"),
        (["--schedule", "cosin"], "did you mean 'cosine'"),
        (["--schedule", "step: {every: 0}"], "every = 0 is not a number of at least 1"),
        (["--schedule", "[step]"], "takes NAME"),
        (["--group", "{scale: 2}"], "takes '{parameters: [PATTERN], KEY: VALUE}'"),
        (["--group", "{parameters: ['*.bias'], rate: 2}"], "with keys of parameters, scale, optimizer, schedule"),
        (["--group", "{parameters: ['tail.*']}"], "'tail.*' fits no parameter of the model"),
        (["--loss", "torch.nn:Nothing"], "has no function 'Nothing'"),
        (["--loss", "torch:softmax"], "--loss"),
        (["--lr", "1", "--optimizer", "sdg"], "did you mean 'sgd'"),
        (["--lr", "1", "--epochs", "1", "--steps", "2"], "give one of the two"),
        (["--shared", "models"], "weights or gradient"),
        (["--node", "99"], "there are rounds 1 and nodes 17"),
        (["--batch-size", "0"], "at least 1"),
        (["--batches", "1,2"], "--batches: also needs --canary"),
        (["--labels", "inferred"], "--labels: also needs --canary"),
        (["--app", ".", "--canary", "nowhere"], "--canary nowhere: no such folder or archive"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(cli, tmp_path, words, said):
    good = dict(zip(GOOD[::2], GOOD[1::2]))
    good |= {words[0]: words[1]} if words[0] in good else {}
    rest = [] if words[0] in good else words
    code, _, err = cli(*(part for pair in good.items() for part in pair), *rest)
    assert code == 2
    assert said in err
    assert len([line for line in err.splitlines() if line.strip()]) == 1
    assert not (tmp_path / "audit").exists()


def test_a_folder_that_is_no_store_is_refused(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = cli(*GOOD, store="empty")
    assert (code, "is no store of observations" in err) == (2, True)


def test_a_store_of_another_version_is_refused_in_one_line(cli, tmp_path):
    marker = tmp_path / "store" / "store.json"
    marker.write_text(marker.read_text().replace('"version": 1', '"version": 2'))
    code, _, err = cli(*GOOD)
    assert code == 2
    assert "version 2; fedsim" in err
    assert len([line for line in err.splitlines() if line.strip()]) == 1
    assert not (tmp_path / "audit").exists()

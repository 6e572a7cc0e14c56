"""One job whose answer is none fails with its reason, is tried again, and ends neither the run nor the next one."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import recorded_cell
import torch

import attacks
from attacks import NotApplicable, Reconstruction
from fedsim.federation.plan import Plan
from fedsim.files import read_json
from fedsim.runs import execute
from fedsim.runs.attack import attack, prepare, respond
from fedsim.runs.attacking import error_file
from fedsim.runs.directory import RunDirectory
from fedsim.runs.execute import _score, _Wanted
from fedsim.runs.returned import MisshapenAnswer

GOOD = {"images": torch.zeros(1, 1, 28, 28), "loss": math.nan}


def _answers(**changed):
    return lambda: [Reconstruction(**{**GOOD, **changed}), NotApplicable("no")]


ANSWERS = {
    "no list": (lambda: None, "returned NoneType for 2 clients"),
    "one for two": (lambda: [NotApplicable("no")], "returned 1 answers for 2 clients"),
    "a tensor": (lambda: [GOOD["images"]] * 2, "returned Tensor, not a Reconstruction"),
    "no channel": (_answers(images=torch.zeros(1, 28, 28)), r"images are \(1, 28, 28\): \(B, 1, 28, 28\) is accepted"),
    "other pictures": (_answers(images=torch.zeros(1, 3, 5, 5)), r"images are \(1, 3, 5, 5\)"),
    "numpy": (_answers(images=torch.zeros(1, 1, 28, 28).numpy()), "images: ndarray is no tensor"),
    "complex": (_answers(images=torch.zeros(1, 1, 28, 28).to(torch.complex64)), "images are of type torch.complex64"),
    "labels of others": (_answers(labels=torch.zeros(3, dtype=torch.int64)), r"labels are \(3\), for 1 images"),
    "labels in between": (_answers(labels=torch.zeros(1)), "labels are of type torch.float32"),
    "a list of labels": (_answers(labels=[1]), "labels: list is no tensor"),
    "noise of no kind": (_answers(noise={"layers.2": 0.5}), "noise of 'layers.2': float is no tensor"),
    "a tensor for a loss": (_answers(loss=torch.tensor(0.5)), "loss is Tensor: a number is accepted"),
}


CELL = SimpleNamespace(scenario=SimpleNamespace(metrics=("mse", "psnr")), work=recorded_cell.work)


@pytest.fixture
def directory(tmp_path):
    directory = RunDirectory(tmp_path)
    recorded_cell.record(directory.cell("cell"), Plan(recorded_cell.work()))
    return directory


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_shapes_of_an_answer_are_checked_where_it_returns(directory, monkeypatch, kind):
    answer, said = ANSWERS[kind]
    task = prepare(directory.cell("cell"), recorded_cell.spec({"name": "null_mean"}))
    monkeypatch.setattr(attacks.get("null_mean"), "run", lambda *args, **keywords: answer())
    with pytest.raises(MisshapenAnswer, match=said):
        respond(task)


def _break(path):
    path.write_bytes(path.read_bytes()[:100])


BROKEN = {
    "reconstructions cut off": lambda job: _break(job / "reconstructions.safetensors"),
    "no reconstructions": lambda job: (job / "reconstructions.safetensors").unlink(),
    "account cut off": lambda job: _break(job / "job.json"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_answer_that_cannot_be_scored_is_taken_away_and_says_why(directory, kind):
    job = recorded_cell.spec({"name": "null_mean"})
    wanted = _Wanted(job, [CELL])
    attack(directory.cell("cell"), directory.job(job.key), job)
    BROKEN[kind](directory.job(job.key))
    assert _score(directory, wanted).status == "failed"
    assert "its answer cannot be scored" in read_json(error_file(directory, job))["reason"]
    assert not directory.job(job.key).exists()
    attack(directory.cell("cell"), directory.job(job.key), job)  # tried again
    score = _score(directory, wanted)
    assert score.status == "ok"
    [rows] = directory.path.glob("scores/*/rows.parquet")
    _break(rows)
    assert _score(directory, wanted) == score  # made anew from the answer


def test_where_the_truth_is_damaged_the_answer_is_kept(directory):
    job = recorded_cell.spec({"name": "null_mean"})
    wanted = _Wanted(job, [CELL])
    attack(directory.cell("cell"), directory.job(job.key), job)
    _break(next((directory.cell("cell") / "truth").iterdir()))
    assert _score(directory, wanted).status == "failed"
    assert "the truth of round 1, client" in read_json(error_file(directory, job))["reason"]
    assert (directory.job(job.key) / "job.json").exists()


def test_a_full_disk_is_no_fault_of_the_answer(directory, monkeypatch):
    job = recorded_cell.spec({"name": "null_mean"})
    wanted = _Wanted(job, [CELL])
    attack(directory.cell("cell"), directory.job(job.key), job)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(execute, "score_job", full)
    with pytest.raises(OSError, match="No space left"):
        _score(directory, wanted)
    assert (directory.job(job.key) / "job.json").exists()

"""From an attack's answers on disk to rows: what counts as an answer, and what a column measures."""

from __future__ import annotations

import json

import polars as pl
import pytest
import torch

from attacks import ThreatModel
from attacks.observation import SUM
from fedsim import answers
from fedsim.answers import Account, JobSpec, Outcome
from fedsim.files import write_json, write_tensors
from fedsim.observations import name_of
from fedsim.scenario.schema import Engine, Record
from fedsim.scoring.job import score_job
from fedsim.truth import Truth, seal

IMAGES = torch.arange(2 * 16, dtype=torch.uint8).view(2, 1, 4, 4) * 4
NORMALISED = IMAGES.float() / 255


@pytest.fixture
def scored(tmp_path):
    """Score one client's answer: `images` (R, 1, 4, 4) in [0, 1], labels, and what the server was granted."""

    def score(images, *, labels=None, threat_model=(), drawn=None, noise=None):
        cell, job, target = (tmp_path / name for name in ("cell", "job", "score"))
        seal(cell, 1, 0, Truth(IMAGES, torch.tensor([3, 5]), drawn or {}, 0.5))
        seen = {"observation": {"mean": [0.0], "std": [1.0]}}
        write_json(cell / "observations" / f"{name_of(1, 0)}.json", seen)
        tensors = {"0.images": images} if labels is None else {"0.images": images, "0.labels": labels}
        tensors |= {f"0.noise.{site}": value for site, value in (noise or {}).items()}
        write_tensors(job / "reconstructions.safetensors", tensors)
        spec = JobSpec(
            cell="", round=1, clients=(0,), attack={"name": "an_attack"}, grants={}, engine=Engine(), seed=0, version=""
        )
        account = Account(
            threat_model=ThreatModel(**dict(threat_model)),
            kind="gradient",
            precision="float32",
            outcomes={0: Outcome(status="ok", loss=0.1, iterations=3, stopped="budget")},
            seconds=0.1,
            device="cpu",
            environment={"torch": "2"},
        )
        answers.write(job, spec, account)
        score_job(cell, job, target, key="k", metrics=["psnr", "mse"])
        return pl.read_parquet(target / "rows.parquet")

    return score


def test_an_answer_in_any_order_is_scored(scored):
    rows = scored(NORMALISED.flip(0), labels=torch.tensor([5, 3]))
    assert rows["status"].to_list() == ["ok", "ok"]
    assert rows["bit_exact"].to_list() == [True, True]
    assert rows["stopped"].to_list() == ["budget"] * 2
    assert rows["environment"].to_list() == ['{"torch": "2"}'] * 2


def test_more_images_than_the_client_had_are_no_answer(scored):
    """256 public images, matched to two originals: the truth would choose the best of them."""
    rows = scored(torch.cat([NORMALISED, torch.rand(254, 1, 4, 4)]))
    assert rows["status"].to_list() == ["failed", "failed"]
    assert rows["reason"][0] == "the attack answered 256 images, but the client had 2"
    assert rows["psnr"].null_count() == 2
    assert rows["picture"].null_count() == 2


def test_an_answer_of_fewer_images_leaves_the_others_without_a_score(scored):
    rows = scored(NORMALISED[:1])
    assert rows["psnr"].to_list() == [160.0, None]
    assert rows["leaked_psnr"].to_list() == [True, False]


@pytest.mark.parametrize(("granted", "right"), [("known", [None, None]), ("inferred", [True, True])])
def test_labels_that_were_granted_are_no_achievement(scored, granted, right):
    rows = scored(NORMALISED, labels=torch.tensor([3, 5]), threat_model={"labels": granted})
    assert rows["label_correct"].to_list() == right


def test_masks_that_were_estimated_are_measured_layer_by_layer(scored):
    drawn = {"first": torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 1]]), "second": torch.tensor([[1.0, 1], [0, 1]])}
    guess = {"first": torch.tensor([[0.9, 0.2, 0.6, 0.7], [0, 0, 1, 1]])}
    rows = scored(NORMALISED, drawn=drawn, noise=guess)
    assert rows["mask_accuracy"].to_list() == [0.75, 1.0]
    assert rows["mask_accuracy_layers"].to_list() == ['{"first": 0.75}', '{"first": 1.0}']
    assert scored(NORMALISED, drawn=drawn)["mask_accuracy"].null_count() == 2


def test_an_account_survives_the_trip_through_json(tmp_path):
    spec = JobSpec(
        cell="c",
        round=2,
        clients=(0, 10, SUM),
        attack={"name": "an_attack", "iterations": 3},
        grants={"labels": "known"},
        engine=Engine(record=Record(every=5)),
        seed=7,
        version="1",
    )
    outcomes = {
        0: Outcome(status="ok", loss=0.5, iterations=3, stopped="budget", losses=[[0, 1.0]], details={"a": [1]}),
        10: Outcome(status="not_applicable", reason="it needs labels"),
        SUM: Outcome(status="ok", losses=[], of=[0, 10]),
    }
    facts = {"kind": "delta", "precision": "float32", "seconds": 0.5, "device": "cpu", "environment": {"torch": "2"}}
    account = Account(threat_model=ThreatModel(labels="unknown"), outcomes=outcomes, **facts)
    answers.write(tmp_path, spec, account)
    assert answers.read(tmp_path) == (spec, account)
    plain = json.loads((tmp_path / "job.json").read_text())
    assert plain["clients"]["10"] == {"status": "not_applicable", "reason": "it needs labels"}
    assert plain["clients"]["0"].keys() == {"status", "loss", "iterations", "stopped", "losses", "details"}
    assert plain["spec"]["engine"] == {
        "compile": "auto", "chunk": 64, "device": "auto", "dtype": "float32", "record": {"every": 5},
    }  # fmt: skip
    del plain["environment"]
    write_json(tmp_path / "job.json", plain)
    assert answers.read(tmp_path)[1].environment is None

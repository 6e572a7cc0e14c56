"""A malicious server: clients of the attacked round are sent a changed model, and the honest one goes on as it was."""

from __future__ import annotations

import json

import polars as pl
import pytest
import torch
from federation_cells import MALICIOUS

import attacks
from attacks import ThreatModel
from fedsim import models, observations
from fedsim.answers import JobSpec
from fedsim.files import read_json, read_tensors
from fedsim.runs.attack import attack
from fedsim.scenario.schema import Engine
from fedsim.scoring.job import score_job
from fedsim.truth import open_envelope


def test_the_clients_of_the_attacked_round_are_sent_the_changed_model(simulated):
    honest, changed = (
        read_tensors(simulated.cell(name) / "observations/round_1.state.safetensors") for name in ("first", "malicious")
    )
    assert all(torch.equal(changed[name], value) for name, value in honest.items())
    added = changed.keys() - honest.keys()
    assert added == {f"imprint.{name}" for name in ("inner.weight", "inner.bias", "outer.weight")}
    rows = changed["imprint.inner.weight"]
    assert (rows == rows[0]).all()
    assert (changed["imprint.inner.bias"].diff() <= 0).all()  # thresholds that rise


def test_such_a_round_teaches_the_honest_model_nothing(simulated):
    plain, malicious = (read_json(simulated.cell(name) / "cell.json")["accuracy"] for name in ("first", "malicious"))
    assert malicious[0] == malicious[1] == plain[0]
    assert len(malicious) == 3


def test_the_attack_reads_off_what_the_clients_trained_on(simulated):
    cell = simulated.cell("malicious")
    threat = ThreatModel(auxiliary_data="public")
    found = 0
    for round, client in observations.listed(cell):
        seen = observations.load(cell, round, client, threat)
        assert seen.derived["server"] == "malicious"
        one = seen.observation
        model = models.build(seen.model, input_shape=one.input_shape, classes=one.classes, seed=0)
        granted = ThreatModel(**{**threat.as_dict(), **seen.derived})
        answer = attacks.create(**MALICIOUS)(one, granted, model)
        truth = open_envelope(cell, round, client).images
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (one.mean, one.std))
        shown = ((answer.images * std + mean) * 255).round()
        found += sum(any(torch.equal(image, true.float()) for true in truth) for image in shown)
    assert found == 4


def test_its_rows_say_who_sent_what_and_what_a_client_could_have_seen(simulated, tmp_path):
    cell = simulated.cell("malicious")
    clients = tuple(client for _, client in observations.listed(cell))
    spec = JobSpec(
        cell="malicious",
        round=1,
        clients=clients,
        attack=MALICIOUS,
        grants={"auxiliary_data": "public"},
        engine=Engine(device="cpu", compile="never"),
        seed=0,
        version="",
    )
    attack(cell, tmp_path / "job", spec)
    score_job(cell, tmp_path / "job", tmp_path / "score", key="k", metrics=["psnr"])
    rows = pl.read_parquet(tmp_path / "score" / "rows.parquet")
    assert rows["threat_server"].to_list() == ["malicious"] * 4
    assert rows["psnr"].min() > 60
    for details in rows["details"]:
        seen = json.loads(details)["detectable"]
        assert seen["alike"] == pytest.approx(1.0)
        assert 0 < seen["d_snr"] < 100

"""What batch-norm statistics the server has follows from what came back, and stands in every row."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from federation_cells import MODELS, PHOTOS, work

from attacks import ThreatModel
from attacks.observation import SUM
from attacks.statistics import of_batches
from fedsim import models, observations, truth
from fedsim.answers import JobSpec
from fedsim.federation.listener import Capture
from fedsim.federation.plan import Plan
from fedsim.federation.server import CaptureWriter
from fedsim.local import train
from fedsim.runs.attack import attack
from fedsim.scenario.schema import Engine
from fedsim.scoring.job import score_job
from fedsim.truth import Truth


def rows_of(cell: Path, folder: Path, round: int = 1) -> pl.DataFrame:
    """The rows of GradInversion on the first client of a cell."""
    spec = JobSpec(
        cell="cell",
        round=round,
        clients=(observations.listed(cell)[0][1],),
        attack={"name": "gradinversion", "iterations": 2, "restarts": 1},
        grants={},
        engine=Engine(device="cpu", compile="never"),
        seed=0,
        version="",
    )
    attack(cell, folder / "job", spec)
    score_job(cell, folder / "job", folder / "score", key="k", metrics=["mse"])
    return pl.read_parquet(folder / "score" / "rows.parquet")


@pytest.mark.parametrize(
    ("cell", "expected", "status"),
    [
        ("resnet18-gradient-float32", "batch", "ok"),
        ("resnet18-weights-float32", "batch", "ok"),  # of two steps
        ("resnet18-group-gradient-float32", "none", "not_applicable"),
    ],
)
def test_the_rows_of_flower_clients_say_it(simulated, tmp_path, cell: str, expected: str, status: str):
    assert (simulated.cell(cell) / "cell.json").exists(), simulated.log.read_text()[-3000:]
    rows = rows_of(simulated.cell(cell), tmp_path)
    assert rows["threat_batch_norm"].unique().to_list() == [expected]
    assert rows["status"].unique().to_list() == [status]
    reason = rows["reason"].unique().to_list()
    assert reason == [None if status == "ok" else "needs batch_norm running or batch, but the threat model says none"]


@pytest.mark.parametrize("round", [1, 2])
def test_the_buffers_of_a_flower_client_reveal_the_statistics_of_its_batch(simulated, round: int):
    """Those of the first batch norm, beside what the sealed images give."""
    cell = simulated.cell("resnet18-gradient-float64")
    _, client = next(pair for pair in observations.listed(cell) if pair[0] == round)
    seen = observations.load(cell, round, client, ThreatModel())
    one = seen.observation
    model = models.build(seen.model, input_shape=one.input_shape, classes=one.classes, seed=9).double()
    model.load_state_dict(dict(one.state))
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (one.mean, one.std))
    images = ((truth.open_envelope(cell, round, client).images.float() / 255 - mean) / std).double()
    entering = model.stem[0](images).transpose(0, 1).flatten(1).detach()
    found = of_batches("stem.1", model.stem[1], one.state, one.buffers)
    torch.testing.assert_close(found.mean, entering.mean(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.variance, entering.var(1), rtol=1e-9, atol=1e-9)


def recorded(folder: Path, *, mode: str, defense: list[dict]) -> Path:
    """Two clients of a pretrained ResNet18, without Flower."""
    model = {**MODELS["resnet18"][0], "width": 2}
    plan = Plan(work({"mode": mode}, model=model, data=PHOTOS, defense=defense, victims={"rounds": [1], "clients": 2}))
    writer = CaptureWriter(plan, folder)
    own = plan.model()
    own.train()(torch.randn(4, 3, 32, 32))  # a new one's statistics say nothing
    state = {name: value.detach().clone() for name, value in own.state_dict().items()}
    for client in (0, 1):
        pixels, labels = plan.batch(client, 1)
        own.load_state_dict(state)
        where = {"local": plan.local, "defense": plan.defense(), "seed": 0, "client": client, "round": 1}
        result = train(own, plan.dataset.normalise(pixels), labels, **where)
        writer.capture(Capture(1, client, state, result.arrays, 2), Truth.of_round(pixels, labels, result.played))
    writer.end(1)
    return folder


def test_in_eval_mode_they_are_running_ones(tmp_path):
    cell = recorded(tmp_path, mode="eval", defense=[])
    rows = rows_of(cell, tmp_path / "answer")
    assert rows["threat_batch_norm"].unique().to_list() == ["running"]
    assert rows["status"].unique().to_list() == ["ok"]


def test_of_a_sum_over_clients_they_are_of_no_batch(tmp_path):
    cell = recorded(tmp_path, mode="train", defense=[{"name": "secure_aggregation"}])
    assert observations.load(cell, 1, SUM, ThreatModel()).derived["batch_norm"] == "running"
    rows = rows_of(cell, tmp_path / "answer")
    assert rows["status"].unique().to_list() == ["not_applicable"]
    assert "has its own statistics" in rows["reason"][0]

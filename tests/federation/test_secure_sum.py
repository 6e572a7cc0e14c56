"""Under secure aggregation the server's disk holds the sum of a round and the update of no client."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from federation_cells import BASE, work
from torch import Tensor

from attacks import ThreatModel
from attacks.observation import SUM
from fedsim import observations, truth
from fedsim.answers import JobSpec
from fedsim.federation.listener import Capture
from fedsim.federation.plan import Plan
from fedsim.federation.server import CaptureWriter
from fedsim.files import read_json, read_tensors
from fedsim.runs.attack import attack
from fedsim.runs.single import attack_recorded
from fedsim.scenario.schema import Engine
from fedsim.scoring.job import score_job
from fedsim.truth import Truth

SECURE = [{"name": "secure_aggregation"}]


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten().double() for _, value in sorted(tensors.items())])


def on_disk(cell: Path) -> list[dict[str, Tensor]]:
    """Whatever lies under a cell beside its truth."""
    return [read_tensors(path) for path in cell.rglob("*.safetensors") if path.parent.name != "truth"]


def test_flower_clients_are_seen_as_their_mean_alone(simulated):
    """Beside the very same clients without it: batches and masks are drawn by the same names."""
    alone, summed = simulated.cell("first"), simulated.cell("sum")
    assert (summed / "cell.json").exists(), simulated.log.read_text()[-3000:]
    assert observations.listed(summed) == [(1, SUM), (2, SUM)]
    for round in (1, 2):
        seen = observations.load(summed, round, SUM, ThreatModel(noise="known"))
        found = observations.clients_of(summed, round, SUM)
        assert found == list(seen.observation.clients) == [c for r, c in observations.listed(alone) if r == round]
        assert len(set(seen.observation.weights)) == 1
        assert seen.derived["aggregation"] == "sum_of_2"
        each = [observations.load(alone, round, client, ThreatModel(noise="known")).observation for client in found]
        mean = torch.stack([flat(dict(one.update)) for one in each]).mean(0)
        assert float((flat(dict(seen.observation.update)) - mean).norm()) <= 1e-5 * float(mean.norm())
        assert seen.observation.batch_size == seen.observation.examples == 4
        assert torch.equal(seen.observation.labels, torch.cat([one.labels for one in each]))
        for site, drawn in seen.observation.noise.items():
            assert torch.equal(drawn, torch.cat([one.noise[site] for one in each]))
        for one, client in zip(each, found):
            for tensors in on_disk(summed):
                held = {name.removeprefix("update."): value for name, value in tensors.items()}
                for name, value in one.update.items():
                    assert name not in held or not torch.allclose(held[name], value)
            assert len(truth.open_envelope(summed, round, client).images) == 2
    assert {path.parent.name for path in summed.glob("*/*client*")} == {"truth"}


def test_its_rows_are_of_clients_and_samples(simulated, tmp_path):
    cell = simulated.cell("sum")
    spec = JobSpec(
        cell="sum",
        round=1,
        clients=(SUM,),
        attack={"name": "inverting_gradients", "iterations": 2},
        grants={},
        engine=Engine(device="cpu", compile="never"),
        seed=0,
        version="",
    )
    attack(cell, tmp_path / "job", spec)
    score_job(cell, tmp_path / "job", tmp_path / "score", key="k", metrics=["psnr"])
    rows = pl.read_parquet(tmp_path / "score" / "rows.parquet")
    clients = observations.clients_of(cell, 1, SUM)
    assert rows.select("client", "sample").rows() == [(client, sample) for client in clients for sample in (0, 1)]
    assert rows["status"].to_list() == ["ok"] * 4
    assert rows["picture"].to_list() == [0, 1, 2, 3]
    assert rows["threat_aggregation"].unique().to_list() == ["sum_of_2"]
    assert rows["psnr"].null_count() == 0
    losses = {client: truth.open_envelope(cell, 1, client).loss for client in clients}
    assert rows["victim_loss"].to_list() == [losses[client] for client in rows["client"]]
    assert read_json(tmp_path / "job" / "job.json")["clients"][str(SUM)]["of"] == clients


def test_what_was_recorded_is_attacked_outside_a_run_too(simulated, tmp_path):
    pictures = attack_recorded(simulated.cell("sum"), "null_mean", [], tmp_path / "answer")
    assert sorted(path.name for path in pictures) == sorted(f"sum_image_{i}.png" for _ in (1, 2) for i in range(4))


class Seen:
    """Captures of made-up clients of one round."""

    def __init__(self, tmp_path: Path, **local: object) -> None:
        together = {**BASE["federation"], "clients": 3, "clients_per_round": 3}
        victims = {**BASE["victims"], "clients": 3}
        described = work(dict(local), defense=SECURE, federation=together, victims=victims)
        self.plan, self.folder = Plan(described), tmp_path
        self.state = dict(self.plan.model().state_dict())
        self.writer = CaptureWriter(self.plan, tmp_path)

    def capture(self, client: int, examples: int) -> dict[str, Tensor]:
        received = {name: torch.full_like(value, client + 1.0) for name, value in self.state.items()}
        count = 2 * self.plan.local.training.steps
        own = Truth(
            torch.full((count, 1, 28, 28), client, dtype=torch.uint8),
            10 * client + torch.arange(count),
            {"drop": torch.full((count, 3), float(client)), "mixup:weight": torch.tensor([0.5])},
            0.5,
            {"drop": ("step", "example"), "mixup:weight": ("step",)},
        )
        self.writer.capture(Capture(1, client, self.state, received, examples), own)
        return received


def test_it_is_the_mean_by_examples_of_those_that_arrived(tmp_path):
    seen = Seen(tmp_path, share="weights", steps=2)
    seen.capture(0, 1)
    seen.writer.fault(1, 1, "it failed")
    seen.capture(2, 3)
    assert not list(tmp_path.rglob("*.safetensors"))
    seen.writer.end(1)
    found = observations.load(tmp_path, 1, SUM, ThreatModel(noise="known")).observation
    assert (found.clients, found.weights) == ((0, 2), (1, 3))
    assert found.batch_size == 4
    assert found.examples == 4
    for name, value in found.update.items():
        torch.testing.assert_close(value, 2.5 - seen.state[name])  # (1 * 1 + 3 * 3) / 4
    # of each step one client after the other; what is drawn once a step is each client's own
    assert found.labels.tolist() == [0, 1, 20, 21, 2, 3, 22, 23]
    assert found.noise.keys() == {"drop"}
    assert found.noise["drop"][:, 0].tolist() == [0, 0, 2, 2] * 2
    assert [one.model_dump() for one in seen.writer.faults] == [{"round": 1, "client": 1, "reason": "it failed"}]


def test_of_a_single_client_there_is_no_sum(tmp_path):
    seen = Seen(tmp_path)
    seen.writer.fault(1, 0, "it failed")
    seen.capture(1, 2)
    seen.writer.fault(1, 2, "it failed")
    seen.writer.end(1)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert {fault.client for fault in seen.writer.faults} == {0, 1, 2}
    assert seen.writer.faults[-1].reason == "no other client's update arrived: there is no sum"


@pytest.mark.parametrize("name", ["first", "sum"])
def test_the_federation_learns_the_same(simulated, name):
    accuracies = read_json(simulated.cell(name) / "cell.json")["accuracy"]
    assert accuracies == read_json(simulated.cell("again") / "cell.json")["accuracy"]

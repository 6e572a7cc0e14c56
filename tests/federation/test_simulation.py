"""What a real simulation leaves behind: the same for the same seed, paired across defenses, and honest about faults."""

from __future__ import annotations

import pytest
import torch

from attacks import ThreatModel
from fedsim import observations, truth
from fedsim.files import read_json


def _seen(simulated, name, **grants):
    cell = simulated.cell(name)
    assert cell.exists(), simulated.log.read_text()[-3000:]
    return [observations.load(cell, r, c, ThreatModel(**grants)).observation for r, c in observations.listed(cell)]


def _equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_the_same_seed_gives_the_same_bytes(simulated):
    for left, right in zip(_seen(simulated, "first"), _seen(simulated, "again"), strict=True):
        assert (left.round, left.client) == (right.round, right.client)
        assert _equal(left.update, right.update)
        assert _equal(left.state, right.state)
    assert (
        read_json(simulated.cell("first") / "cell.json")["accuracy"]
        == (read_json(simulated.cell("again") / "cell.json")["accuracy"])
    )


def test_another_seed_gives_another_update(simulated):
    left, right = _seen(simulated, "first")[0], _seen(simulated, "other-seed")[0]
    assert not _equal(left.update, right.update)


def test_victims_and_their_noise_do_not_depend_on_the_defense(simulated):
    cells = simulated.cell("first"), simulated.cell("other-defense")
    pairs = observations.listed(cells[0])
    assert pairs == observations.listed(cells[1])
    for round, client in pairs:
        left, right = (truth.open_envelope(cell, round, client) for cell in cells)
        assert torch.equal(left.images, right.images)
        assert _equal(left.noise, right.noise)
    assert not _equal(_seen(simulated, "first")[0].update, _seen(simulated, "other-defense")[0].update)


def test_what_is_not_granted_is_not_loaded(simulated):
    bare = {
        "labels": "unknown",
        "batch_size": "unknown",
        "local_training": "unknown",
        "dropout_rate": "unknown",
    }
    cell = simulated.cell("first")
    round, client = observations.listed(cell)[0]
    seen = observations.load(cell, round, client, ThreatModel(**bare))
    observation = seen.observation
    assert observation.labels is observation.noise is observation.public is observation.defense is None
    assert observation.batch_size is observation.local is None
    assert seen.model["dropout"] == 0.0
    oracle = observations.load(cell, round, client, ThreatModel(noise="known", auxiliary_data="public"))
    assert oracle.observation.noise
    assert len(oracle.observation.public) > 100


def test_the_observation_files_hold_no_truth(simulated):
    cell = simulated.cell("first")
    round, client = observations.listed(cell)[0]
    images = truth.open_envelope(cell, round, client).images
    for path in (cell / "observations").iterdir():
        assert images.numpy().tobytes() not in path.read_bytes()
        assert b"noise" not in path.read_bytes()


def test_a_reply_that_is_not_finite_costs_its_own_rows(simulated):
    summary = read_json(simulated.cell("exploding") / "cell.json")
    assert {(f["round"], f["client"]) for f in summary["faults"]} >= {(1, 0)} or summary["faults"]
    assert all("NaN or infinity" in fault["reason"] for fault in summary["faults"])
    assert observations.listed(simulated.cell("exploding")) == []


def test_a_cell_that_fails_says_why_and_spares_the_others(simulated):
    assert not simulated.cell("refused").exists()
    assert "no_such_model" in read_json(simulated.cell_error("refused"))["reason"]
    assert simulated.cell("first").exists()


def test_a_users_model_is_found_by_clients_and_reads_what_lies_in_the_users_directory(simulated):
    assert not simulated.cell_error("factory").exists()
    assert read_json(simulated.cell("factory") / "cell.json")["faults"] == []
    for seen in _seen(simulated, "factory"):
        assert sorted(tuple(value.shape) for value in seen.update.values()) == [(10,), (10, 16), (16,), (16, 784)]


def test_utility_is_the_accuracy_of_an_unattacked_training(simulated):
    summary = read_json(simulated.cell("utility") / "cell.json")
    assert summary["utility"] > 0.3  # chance is 0.1
    assert read_json(simulated.cell("first") / "cell.json")["utility"] is None


def test_differential_privacy_is_accounted_for(simulated):
    summary = read_json(simulated.cell("dp") / "cell.json")
    assert summary["epsilon"] > 0
    assert 0 < summary["delta"] < 1
    assert "Poisson" in summary["accounting_note"]


@pytest.mark.parametrize("name", ["first", "dirichlet"])
def test_accuracy_is_recorded_before_and_after_each_round(simulated, name):
    accuracy = read_json(simulated.cell(name) / "cell.json")["accuracy"]
    assert len(accuracy) == 3
    assert all(0 <= value <= 1 for value in accuracy)

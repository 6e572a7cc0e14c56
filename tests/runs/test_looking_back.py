"""An attack that looks back is given the earlier rounds of its client, and no other attack is."""

from __future__ import annotations

from dataclasses import replace

import recorded_cell
import torch

from fedsim import observations
from fedsim.answers import JobSpec
from fedsim.federation.plan import Plan
from fedsim.runs.attack import prepare, respond
from fedsim.runs.parcel import Parcel

MODEL = {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.5}


def recorded(tmp_path, rounds: tuple[int, ...]) -> None:
    """The same replies as if they had been seen in several rounds, each with weights of its own."""
    recorded_cell.record(tmp_path, Plan(recorded_cell.work()))
    for client in (0, 1):
        seen = observations.load(tmp_path, 1, client, recorded_threat())
        for number in rounds:
            state = {name: value + number for name, value in seen.observation.state.items()}
            later = replace(seen.observation, state=state, round=number, noise=None)
            observations.save(tmp_path, later, model=MODEL, derived=seen.derived)


def recorded_threat():
    from attacks import ThreatModel

    return ThreatModel(defense="known")


def job(name: str, round: int, **keys: object) -> JobSpec:
    return replace(recorded_cell.spec({"name": name, **keys}, clients=(0, 1)), round=round)


def test_the_latest_comes_first_and_only_what_was_before(tmp_path):
    recorded(tmp_path, (2, 3, 4))
    task = prepare(tmp_path, job("multi_round", 3))
    for client, one in enumerate(task.observations):
        assert [(earlier.round, earlier.client) for earlier in one.earlier] == [(2, client), (1, client)]
        first = next(iter(one.state))
        torch.testing.assert_close(one.earlier[0].state[first] + 1, one.state[first])
        assert not one.earlier[0].earlier
    assert not any(one.earlier for one in prepare(tmp_path, job("multi_round", 1)).observations)
    assert not any(one.earlier for one in prepare(tmp_path, job("sparse_dictionary", 3)).observations)


def test_it_is_seen_as_the_threat_model_allows(tmp_path):
    recorded(tmp_path, (2,))
    spec = replace(job("multi_round", 2), grants={"labels": "unknown", "batch_size": "unknown"})
    [earlier] = prepare(tmp_path, spec).observations[0].earlier
    assert earlier.labels is None
    assert earlier.batch_size is None
    assert earlier.noise is None


def test_it_travels_to_whoever_computes_and_onto_the_device(tmp_path):
    recorded(tmp_path, (2,))
    task = Parcel.of(prepare(tmp_path, job("multi_round", 2))).open()
    [earlier] = task.observations[0].earlier
    assert earlier.round == 1
    moved = observations.to(task.observations[0], torch.device("cpu"), torch.float64)
    assert all(value.dtype == torch.float64 for value in moved.earlier[0].update.values())
    answer = respond(task)
    assert all("of one image a single round says all" in one.reason for one in answer.account.outcomes.values())

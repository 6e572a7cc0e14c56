"""A server that makes its global model private has seen every update before: nothing of that is kept from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from federation_cells import CENTRAL, UTILITY, work
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from flwr.supercore.task_identity import TaskIdentity
from opacus.accountants import RDPAccountant

import defenses
from attacks import ThreatModel
from defenses.base import Defense
from fedsim import observations
from fedsim.federation import cost
from fedsim.federation.applied import Applied
from fedsim.federation.plan import Plan
from fedsim.files import read_json, read_tensors
from fedsim.reporting.naming import needed_for
from fedsim.scenario import every_cell, parse

SENT = {"w": torch.randn(20, 30, generator=torch.Generator().manual_seed(1)), "count": torch.tensor(7)}


def test_what_the_server_sees_of_the_first_round_is_what_undefended_clients_send(simulated):
    plain, central = simulated.cell("first"), simulated.cell("central")
    seen = observations.listed(central)
    assert seen == observations.listed(plain)
    for round, client in seen:
        mine, theirs = (
            observations.load(cell, round, client, ThreatModel()).observation.update for cell in (central, plain)
        )
        assert mine.keys() == theirs.keys()
        same = all(torch.equal(mine[name], theirs[name]) for name in mine)
        assert same == (round == 1)  # what is sent to the clients of the second round is another model
    states = [read_tensors(cell / "observations/round_2.state.safetensors") for cell in (plain, central)]
    apart = [states[1][name] - value for name, value in states[0].items() if name.startswith("hidden")]
    assert all(value.abs().max() > 1e-3 for value in apart)


def test_its_privacy_is_of_clients_and_says_that_it_is_none_towards_the_server(simulated):
    summary = read_json(simulated.cell("central") / "cell.json")
    assert summary["accounting_note"].endswith("towards the server there is none")
    accountant = RDPAccountant()
    accountant.history = [(0.1, 1.0, 2)]
    exact = summary["epsilon"]
    assert 0.9 * accountant.get_epsilon(1e-5) < exact < accountant.get_epsilon(1e-5)
    none = defenses.create("central_dp", noise_multiplier=0).accounting(updates=1, steps=1, batch_size=1, examples=1)
    assert none.epsilon == math.inf


@pytest.fixture
def _inside_a_flower_task(monkeypatch):
    for part in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, part, 1)


@pytest.mark.usefixtures("_inside_a_flower_task")
def test_it_applies_what_flowers_strategy_applies(monkeypatch):
    """The same updates, one above the bound and one below, and the same standard normal numbers."""
    changes = [size * torch.randn(20, 30, generator=torch.Generator().manual_seed(2)) for size in (0.001, 1.0)]
    received = [{"w": SENT["w"] + change} for change in changes]
    parts = defenses.compose([{"name": "central_dp", "noise_multiplier": 0.3, "clipping_norm": 0.5}])
    applied = Applied(share="weights", learning_rate=0.1, trained={"w": "w"}, defense=parts, seed=4)
    drawn = applied._turn(3).of("central_dp").draw("w", defenses.client.site.Gaussian(), SENT["w"].double())

    theirs = DifferentialPrivacyServerSideFixedClipping(FedAvg(fraction_evaluate=0.0), 0.3, 0.5, 2)
    theirs.current_arrays = ArrayRecord({"w": SENT["w"]})
    monkeypatch.setattr(np.random, "normal", lambda mean, deviation, shape: mean + deviation * drawn.numpy())
    aggregate, _ = theirs.aggregate_train(3, [_reply(arrays) for arrays in received])

    clipped = [applied.weights(SENT, {**arrays, "count": SENT["count"]}) for arrays in received]
    mean = {"w": (clipped[0]["w"] + clipped[1]["w"]) / 2, "count": SENT["count"]}
    found = applied.state(SENT, mean, [5, 5], 3)
    assert found["count"] == 7
    expected = torch.from_numpy(aggregate.to_numpy_ndarrays()[0]).float()
    torch.testing.assert_close(found["w"], expected, rtol=0, atol=2e-6)
    assert (found["w"] - mean["w"]).std() == pytest.approx(0.3 * 0.5 / 2, rel=0.1)


def _reply(arrays) -> Message:
    request = Message(RecordDict({"config": ConfigRecord()}), dst_node_id=1, message_type="train")
    return Message(
        RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 5})}), reply_to=request
    )


@pytest.mark.parametrize("share", ["gradient", "weights"])
def test_tied_weights_are_clipped_once_and_stay_tied(share):
    sent = {"a": torch.ones(4), "b": torch.ones(4)}
    received = {name: 3 * torch.ones(4) for name in sent}
    parts = defenses.compose([{"name": "central_dp", "clipping_norm": 1.0, "noise_multiplier": 1.0}])
    applied = Applied(share=share, learning_rate=0.5, trained={"a": "a", "b": "a"}, defense=parts)
    weights = applied.weights(sent, received)
    moved = torch.full((4,), 0.5 if share == "weights" else -0.25)
    torch.testing.assert_close(weights["a"], 1 + moved)
    found = applied.state(sent, weights, [1], 1)
    assert torch.equal(found["a"], found["b"])
    assert not torch.equal(found["a"], weights["a"])


def test_the_utility_training_is_noisy_too():
    start = Plan(work()).model().state_dict()
    wide = {**CENTRAL[0], "clipping_norm": 5.0}
    faint, loud = (
        cost.utility(work(defense=[{**wide, "noise_multiplier": noise}], utility=UTILITY), start)
        for noise in (1e-4, 1.0)
    )
    assert faint > 0.45
    assert loud < 0.3


def test_there_is_nothing_of_it_to_know():
    """An attack runs once, whatever is granted, and every attack counts as one that took it into account."""
    described = {"name": "n", "data": "mnist", "model": {"name": "mlp", "width": 8}, "attacks": ["null_mean"]}
    parts = [{"name": "central_dp"}, [{"name": "central_dp"}, {"name": "clip"}]]
    alone, beside = every_cell(parse({**described, "defenses": parts}, rehearsed=False))
    assert "defense" not in alone.knowable()
    assert "defense" in beside.knowable()
    for attack in ("inverting_gradients", "first_linear", "null_mean"):
        assert needed_for(attack, "central_dp") is None
    assert needed_for("inverting_gradients", "gaussian_noise") == "defense"


def test_only_what_acts_after_the_server_saw_is_the_servers_alone():
    alone = {name for name in defenses.names() if defenses.create(name).server_alone}
    assert alone == {"central_dp"}
    assert not Defense().server_alone

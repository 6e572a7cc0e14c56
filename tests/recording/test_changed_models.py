"""A malicious server changes what is sent in its rounds, and nothing else."""

from __future__ import annotations

import random

import torch
from flower_messages import STATE, Nodes
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg

import fedsim
from fedsim.recording import Store

HONEST = {name: value.float() for name, value in STATE.items()}


def doubled(round, state):
    assert round == 2
    return {name: 2 * value for name, value in state.items()}


def states(strategy, grid):
    """By round what nodes were sent, and what the run came to."""
    random.seed(0)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(HONEST), num_rounds=3)
    training = [(round, content) for _, round, content in grid.asked if content.array_records]
    sent = {round: content["arrays"].to_torch_state_dict() for round, content in training}
    return sent, result.arrays.to_torch_state_dict()


def test_only_its_rounds_differ_and_teach_nothing():
    strategy = fedsim.MaliciousServer(FedAvg(fraction_evaluate=0.0), doubled, rounds=[2])
    sent, after = states(strategy, Nodes())
    plain, plain_after = states(FedAvg(fraction_evaluate=0.0), Nodes())
    for name, value in plain[2].items():
        assert torch.equal(sent[1][name], plain[1][name])
        assert torch.equal(sent[2][name], 2 * value)
        assert torch.equal(sent[3][name], value)
        assert torch.equal(after[name], plain[3][name])  # two honest rounds, as far as the other is after two
    assert plain_after.keys() == after.keys()


def test_the_eavesdropper_records_the_model_that_was_sent(tmp_path):
    inner = fedsim.MaliciousServer(FedAvg(fraction_evaluate=0.0), doubled, rounds=[2])
    sent, _ = states(fedsim.Eavesdropper(inner, store=tmp_path / "o"), Nodes())
    store = Store.open(tmp_path / "o")
    for round, node in store.listed():
        recorded = store.read(round, node)
        assert all(torch.equal(recorded.sent[name], value) for name, value in sent[round].items())

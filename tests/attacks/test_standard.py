"""The standard attack has no parameters, and a version stays what it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace

import pytest
import torch
from attack_victims import observe, paper_mlp
from torch import nn

import attacks
from attacks import Reconstruction, ThreatModel, standard_v1, standard_v2
from attacks.descent import composed
from attacks.matching import fedavg_inversion
from attacks.operations import of_an_iteration, smooth
from attacks.standard_v1 import best, plan
from defenses.registry import parameters
from defenses.stochastic import Dropout


def victim_of(model, batch=1):
    generator = torch.Generator().manual_seed(0)
    return observe(model, torch.rand(batch, 1, 8, 8, generator=generator), torch.arange(batch), classes=4)


def convolutional(activation, rate=0.5):
    first = [nn.Conv2d(1, 4, 5, stride=2, padding=2), activation, nn.Conv2d(4, 4, 3, padding=1), activation]
    torch.manual_seed(0)
    return nn.Sequential(*first, nn.Flatten(), Dropout(rate), nn.Linear(64, 4))


def test_version_1_is_frozen():
    """Another configuration is another version: `standard_v2`, beside this one."""
    frozen = [standard_v1.OPERATIONS, standard_v1.LONGEST, standard_v1.WHOLE, standard_v1.STAGES, standard_v1.DESCENTS]
    digest = hashlib.sha256(json.dumps(frozen, sort_keys=True).encode()).hexdigest()
    assert digest[:16] == "58dc1eaf73a1f304"
    assert not parameters(attacks.get("standard_v1"))


def test_version_2_is_frozen():
    frozen = [standard_v2.WHOLE, standard_v2.MEMORY, standard_v2.STAGES]
    digest = hashlib.sha256(json.dumps(frozen, sort_keys=True).encode()).hexdigest()
    assert digest[:16] == "0657f2fb448fd5af"
    assert not parameters(attacks.get("standard_v2"))
    assert standard_v1.ReadoutDescent.memory == 50
    assert standard_v2.LongReadoutDescent.memory == standard_v2.MEMORY


@pytest.mark.parametrize("version", ["standard_v1", "standard_v2"])
@pytest.mark.parametrize("name", standard_v1.STAGES)
def test_every_option_of_a_search_is_stated(version, name):
    """A default that changes later changes nothing here."""
    attack = attacks.create(version)
    stated = {*attack.stages[name], "iterations"}
    assert {field.name for field in fields(attack._stage(name, 10))} == stated


@pytest.mark.parametrize(("version", "memory", "iterations"), [("standard_v1", 50, 2), ("standard_v2", 200, 10)])
def test_a_version_s_descents_are_run_with_its_memory_and_its_length(monkeypatch, version, memory, iterations):
    """Four times as long in version 2, whose iterations of whole gradients count once."""
    model = convolutional(nn.Sigmoid())
    victim = victim_of(model)
    monkeypatch.setattr(standard_v1, "OPERATIONS", 20 * of_an_iteration(victim, ThreatModel(), model))
    memories, lengths = [], {}

    def watched(*args, **keys):
        memories.append(keys["memory"])
        return composed(*args, **keys)

    for module in (standard_v1, fedavg_inversion):
        monkeypatch.setattr(module, "composed", watched)
    attack = attacks.create(version)
    stage = attack._stage
    monkeypatch.setattr(attack, "_stage", lambda name, long: lengths.update({name: long}) or stage(name, long))
    attack(victim, ThreatModel(), model)
    assert set(memories) == {memory}
    assert {lengths[name] for name in standard_v1.DESCENTS} == {iterations}


def test_operations_are_counted():
    """Of a linear layer: forward, the weight's gradient; then back through that to the image and the delta, and from
    there to the image."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    for batch in (1, 3):
        assert of_an_iteration(victim_of(model, batch), ThreatModel(), model) == 5 * 2 * 64 * 4


def test_the_model_decides_how_it_is_searched():
    threat_model = ThreatModel()
    sigmoids, kinks = convolutional(nn.Sigmoid()), convolutional(nn.ReLU())
    assert smooth(victim_of(sigmoids), threat_model, sigmoids)
    assert list(plan(victim_of(sigmoids), threat_model, sigmoids)) == list(standard_v1.STAGES)
    assert list(plan(victim_of(kinks), threat_model, kinks)) == ["cut", "multiscale_inversion"]


def test_a_search_has_a_limit_of_operations(monkeypatch):
    model = convolutional(nn.Sigmoid())
    victim = victim_of(model)
    each = of_an_iteration(victim, ThreatModel(), model)
    monkeypatch.setattr(standard_v1, "OPERATIONS", 80 * each)
    assert plan(victim, ThreatModel(), model) == {
        "cut": 80, "readout_descent": 10, "fedavg_inversion": 10, "multiscale_inversion": 80
    }  # fmt: skip


def test_the_answer_that_explains_the_update_is_taken_whatever_its_loss_says():
    model = paper_mlp(dropout=0.0, inputs=64, width=16, classes=4)
    victim = victim_of(model)
    truth = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    right = Reconstruction(images=truth, loss=1.0, labels=torch.tensor([0]))
    wrong = replace(right, images=1 - truth, loss=0.0)
    name, answer = best({"wrong": wrong, "right": right}, victim, ThreatModel(), model)
    assert name == "right"
    assert answer.details["unexplained"]["wrong"] > 1e3 * answer.details["unexplained"]["right"]


def test_no_neighbour_changes_an_answer(monkeypatch):
    monkeypatch.setattr(standard_v1, "LONGEST", 15)
    model = convolutional(nn.Sigmoid())
    one, other = victim_of(model), victim_of(model, 2)
    attack = attacks.create("standard_v1")
    alone = attack(one, ThreatModel(), model)
    beside, _ = attack.run([one, replace(other, batch_size=2)], ThreatModel(), model)
    assert torch.equal(alone.images, beside.images)

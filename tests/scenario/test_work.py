"""A cell's work survives the trip through JSON to the byte, and says the same as the scenario it comes from."""

import dataclasses
import json

import pytest

from fedsim import local
from fedsim.scenario import every_cell, parse, training
from fedsim.scenario.work import Work

BASE = {"name": "work", "data": "mnist", "model": {"name": "mlp", "width": 8}, "attacks": []}

LOCAL = {
    "share": "weights",
    "epochs": 2,
    "examples": 3,
    "optimizer": {"name": "adam", "beta1": 0},
    "clip_norm": 1,
    "proximal": 0.1,
    "label_smoothing": 0.1,
    "trained": ["layers.*", "head.*"],
    "precision": "float64",
}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"federation": {"clients": 6, "clients_per_round": 2, "rounds": 2, "local": LOCAL, "resources": {"gpus": 0}}},
        {"model": {"name": "mlp", "pretrain": {"steps": 3, "learning_rate": 1}}, "victims": {"development": 1}},
        {"utility": {"rounds": 3, "local": {"steps": 2, "learning_rate": 1}}, "federation": {"rounds": 2}},
        {"utility": {"rounds": 3, "reachable": None}, "seeds": [5]},
        {"defenses": [["none", {"name": "clip", "norm": 1}], {"name": "dropout", "p": 0.5}]},
        {"data": {"name": "mnist", "partition": {"kind": "dirichlet", "alpha": 1}, "image_size": 14}},
    ],
)
def test_what_is_read_back_is_the_same_to_the_byte(keys):
    for cell in every_cell(parse({**BASE, **keys}, rehearsed=False)):
        work = dataclasses.replace(cell.work(), salt="ab")
        written = json.dumps(work.to_dict())
        read = Work.from_dict(json.loads(written))
        assert read == work
        assert json.dumps(read.to_dict()) == written


def test_what_was_not_given_is_not_in_the_work():
    [cell] = every_cell(parse(BASE, rehearsed=False))
    plain = cell.work().to_dict()
    assert not plain.keys() & {"start", "salt", "content", "source"}
    assert plain["federation"]["local"] == {
        "batch_size": 1, "steps": 1, "learning_rate": 0.1, "mode": "train", "share": "gradient", "precision": "float32",
    }  # fmt: skip


def test_local_training_has_the_keys_and_the_defaults_of_the_scenario():
    block = training.Local().model_dump(mode="json")
    assert local.Local.from_dict(block) == local.Local() == local.Local.from_dict({})
    full = training.Local.model_validate_json(json.dumps(LOCAL)).model_dump(mode="json")
    assert full.keys() == block.keys()
    read = local.Local.from_dict(full)
    assert {**block, **read.to_dict()} == full
    assert all(read.to_dict()[key] == value for key, value in full.items() if value != block[key])

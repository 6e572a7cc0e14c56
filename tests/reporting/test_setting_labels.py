"""What settings are called: short, and no two alike."""

from __future__ import annotations

import copy
import json

from fedsim.reporting.settings import setting_labels

PRETRAINED = {"pretrain": {"steps": 300, "batch_size": 32, "learning_rate": 0.1, "dropout": 0.5}}


def described(**changes):
    block = {
        "data": {"name": "mnist", "partition": {"kind": "iid"}},
        "model": {"name": "mlp", "width": 512, "dropout": 0.0},
        "federation": {"clients": 4, "local": {"batch_size": 1, "steps": 1, "share": "gradient", "learning_rate": 0.1}},
        "utility": None,
        "round": 1,
    }
    block = copy.deepcopy(block)
    for key, value in changes.items():
        *path, last = key.split("__")
        place = block
        for part in path:
            place = place[part]
        place[last] = value
    return json.dumps(block, sort_keys=True)


def labels(*blocks):
    found = setting_labels(blocks)
    assert len(set(found.values())) == len(blocks), "two settings have one name"
    return list(found.values())


def test_one_setting_is_its_data_and_its_model():
    assert labels(described()) == ["mnist · mlp"]
    assert labels(described(federation__local__batch_size=8)) == ["mnist · mlp · batch 8"]


def test_weights_from_elsewhere_are_one_word():
    assert labels(described(), described(start=PRETRAINED)) == ["mnist · mlp · init", "mnist · mlp · pretrained"]
    longer = {"pretrain": {**PRETRAINED["pretrain"], "steps": 600}}
    assert labels(described(start=PRETRAINED), described(start=longer)) == [
        "mnist · mlp · pretrained · start pretrain steps 300",
        "mnist · mlp · pretrained · start pretrain steps 600",
    ]


def test_a_block_that_one_lacks_is_named_by_its_absence():
    assert labels(described(), described(utility={"rounds": 20, "local": {"steps": 1}})) == [
        "mnist · mlp · no utility",
        "mnist · mlp",
    ]


def test_keys_of_other_models_are_not_compared():
    assert labels(described(), described(model={"name": "lenet", "init": "xavier", "dropout": 0.0})) == [
        "mnist · mlp",
        "mnist · lenet",
    ]


def test_whatever_else_differs_is_said():
    assert labels(described(), described(round=2)) == ["mnist · mlp · round 1", "mnist · mlp · round 2"]
    assert labels(described(), described(federation__local__share="weights"))[1] == "mnist · mlp · weights"
    assert labels(described(), described(some_new_key=3)) == ["mnist · mlp", "mnist · mlp · some new key 3"]

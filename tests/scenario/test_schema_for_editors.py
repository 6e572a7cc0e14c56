"""The JSON Schema as an editor uses it: every key explains itself, and the keys of a sweep are checked."""

from __future__ import annotations

import jsonschema
import pytest
from ruamel.yaml import YAML

import attacks
from fedsim.described import described
from fedsim.scenario import bundled, json_schema

SCHEMA = json_schema()
LEAST = {"name": "a", "attacks": ["cut"]}


def test_every_key_has_a_description():
    blocks = {"scenario": SCHEMA, **SCHEMA["$defs"]}
    silent = [
        f"{name}.{key}"
        for name, block in blocks.items()
        for key, of in block.get("properties", {}).items()
        # one that is a block of its own is described there
        if not (of.get("description") or blocks.get(of.get("$ref", "").rpartition("/")[2], {}).get("description"))
    ]
    assert not silent, "say it under `Args:` in the docstring of the class"


def test_a_parameter_is_described_where_its_class_or_its_parent_describes_it():
    attack = attacks.get("dropout_inversion")
    assert described(attack, "drop_rate") == "weight of the drop-rate prior."
    assert described(attack, "iterations") == "at most this many."  # of what iterative attacks share
    assert described(attack, "no_such_key") is None


def problems(sweep):
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors({**LEAST, **sweep})]


@pytest.mark.parametrize(
    "sweep",
    [
        {"model.name": ["mlp", "lenet"]},
        {"federation.local.optimizer": ["adam", {"name": "sgd", "momentum": 0.9}]},
        {"attacks[0].iterations": [10, 20]},
        {"model.pretrain": [None, {"steps": 10}]},
    ],
)
def test_what_can_be_swept_is_accepted(sweep):
    assert not problems({"sweep": sweep})


@pytest.mark.parametrize(
    "sweep",
    [
        {"model.nmae": ["mlp"]},
        {"model.name": ["lenett"]},
        {"federation.local.steps": [0]},
        {"federation.local.stesp": [1]},
        {"seeds": [[0], [1]]},
        {"model.name": "mlp"},
        {"model.name": []},
    ],
)
def test_a_misspelt_key_or_value_of_a_sweep_is_refused(sweep):
    assert problems({"sweep": sweep})


def test_a_factory_has_keys_that_only_it_knows():
    sweep = {"sweep": {"model.hidden": [8, 16]}}
    assert problems(sweep)
    assert not problems({"model": {"factory": "net:make"}, **sweep})


@pytest.mark.parametrize("name", bundled())
def test_bundled_scenarios_are_valid(name):
    jsonschema.validate(YAML(typ="safe", pure=True).load(bundled()[name].read_text()), SCHEMA)

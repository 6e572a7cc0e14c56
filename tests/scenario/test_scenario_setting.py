"""What parts the rows of a table: everything that a scenario can say, except who was attacked, and by which attack."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

from fedsim.scenario import every_cell, parse
from fedsim.scenario.schema import Engine, Scenario, Utility, UtilityLocal
from fedsim.scenario.sources import Mnist
from fedsim.scenario.training import Federation, Local

BASE = {
    "name": "base",
    "data": {"name": "mnist"},
    "model": {"name": "mlp"},
    "federation": {"clients": 8, "rounds": 3, "local": {"batch_size": 2, "steps": 1}},
    "victims": {"rounds": [1], "clients": 4},
    "attacks": ["inverting_gradients"],
    "defenses": ["none", "clip"],
}

CHANGES = {  # key: another value than the base's, and whether it parts settings
    "data.image_size": (14, True),
    "data.test_fraction": (0.3, True),
    "data.partition": ({"kind": "dirichlet", "alpha": 1.0}, True),
    "model.width": (64, True),
    "model.dropout": (0.25, True),
    "model.pretrain": ({"steps": 3}, True),
    "federation.clients": (9, True),
    "federation.clients_per_round": (7, True),
    "federation.rounds": (4, True),
    "federation.local.batch_size": (3, True),
    "federation.local.steps": (2, True),
    "federation.local.learning_rate": (0.01, True),
    "federation.local.mode": ("eval", True),
    "federation.local.share": ("weights", True),
    "federation.local.precision": ("float64", True),
    "federation.local.epochs": (1, True),
    "federation.local.examples": (4, True),
    "federation.local.optimizer": ({"name": "adamw"}, True),
    "federation.local.schedule": ({"name": "step"}, True),
    "federation.local.groups": ([{"parameters": ["*.bias"], "scale": 2.0}], True),
    "federation.local.clip_norm": (1.0, True),
    "federation.local.clip_value": (1.0, True),
    "federation.local.proximal": (0.1, True),
    "federation.local.label_smoothing": (0.1, True),
    "federation.local.trained": (["body.*"], True),
    "utility": ({"rounds": 2}, True),
    "engine.dtype": ("float64", True),
    "engine.chunk": (2, True),
    "federation.resources": ({"cpus": 2}, False),
    "federation.deadline": (1.5, False),
    "engine.compile": ("never", False),
    "engine.device": ("cpu", False),
    "engine.gpus": (0.5, False),
    "engine.record": ({"every": 5}, False),
    "seeds": ([1], False),
    "victims.clients": (5, False),
    "victims.development": (1, False),
    "attacks": (["dropout_inversion"], False),
    "metrics": (["psnr"], False),
    "description": ("other words", False),
}


_DELTA = ["federation.local.share=weights"]
WEIGHTS = {  # keys that have a meaning with other keys only
    "federation.local.steps": _DELTA,
    "federation.local.epochs": _DELTA,
    "federation.local.examples": [*_DELTA, "federation.local.epochs=2"],
    "federation.local.optimizer": _DELTA,
    "federation.local.schedule": _DELTA,
    "federation.local.groups": _DELTA,
}


def setting(options=(), defense=0, round=1):
    return every_cell(parse(BASE, list(options), rehearsed=False))[defense].setting(round)


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_that_can_change_a_result_parts_settings(key):
    value, parts = CHANGES[key]
    options = [f"{key}={json.dumps(value)}"]
    if key in WEIGHTS:
        options += WEIGHTS[key]
        assert setting(options) != setting(WEIGHTS[key])
    else:
        assert (setting(options) != setting()) is parts


def test_every_key_of_the_schema_is_in_the_table_above():
    """A key that is added later must be decided upon here; by itself it parts settings."""

    def keys(block: type[BaseModel], prefix: str, without: tuple[str, ...] = ()):
        return {f"{prefix}{name}" for name in block.model_fields if name not in without}

    known = keys(Mnist, "data.", ("name", "path")) | keys(Local, "federation.local.") | keys(Engine, "engine.")
    known |= keys(Federation, "federation.", ("local",))
    blocks = ("name", "data", "model", "federation", "threat_model", "victims", "engine", "sweep", "settings")
    known |= keys(Scenario, "", blocks)
    assert known - CHANGES.keys() == {"defenses"}
    assert set(Utility.model_fields) >= {"rounds", "local"}
    assert "learning_rate" in UtilityLocal.model_fields


def test_a_round_parts_settings_and_a_defense_does_not():
    assert setting(round=2) != setting(round=1)
    assert setting(defense=1) == setting(defense=0)


def test_the_rate_that_a_defense_sets_is_not_the_setting():
    options = ['defenses=[none, {name: dropout, p: 0.5}]']
    assert setting(options, defense=1) == setting(options, defense=0)
    assert setting(options, defense=1)["model"]["dropout"] == 0.0


def test_the_setting_names_files_and_no_path_of_this_machine(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    found = setting([f"model.checkpoint={tmp_path / 'weights.safetensors'}"])
    assert found["start"]["checkpoint"]["path"] == "weights.safetensors"
    assert len(found["start"]["checkpoint"]["content"]) == 16
    assert str(tmp_path) not in json.dumps(found)

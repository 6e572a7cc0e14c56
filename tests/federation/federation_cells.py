"""Descriptions of the cells that the tests of this folder train."""

from __future__ import annotations

import copy
from pathlib import Path

from fedsim import models
from fedsim.federation.plan import Plan
from fedsim.files import write_tensors
from fedsim.runs.jobs import cell_key
from fedsim.scenario import every_cell, parse
from fedsim.scenario.work import Work

BASE = {
    "data": {"name": "mnist", "path": None, "image_size": None, "test_fraction": 0.2, "partition": {"kind": "iid"}},
    "model": {"name": "mlp", "dropout": 0.5, "width": 32},
    "federation": {
        "clients": 3,
        "clients_per_round": 2,
        "rounds": 2,
        "local": {"batch_size": 2, "steps": 1, "learning_rate": 0.1, "mode": "train", "share": "gradient"},
        "resources": {"cpus": 1, "gpus": 0},
    },
    "defense": [],
    "seed": 0,
    "victims": {"rounds": [1, 2], "clients": 2},
    "utility": None,
}

UTILITY = {
    "rounds": 40,
    "local": {"batch_size": 32, "steps": 1, "learning_rate": 0.5},
    "reachable": {"steps": 60, "batch_size": 32, "learning_rate": 0.5, "dropout": 0.0},
}

CENTRAL = [{"name": "central_dp", "noise_multiplier": 0.1, "clipping_norm": 0.5}]

MALICIOUS = {"name": "imprint", "bins": 64, "scale": 1.0, "gain": 1000.0}

PHOTOS = {"name": "photos", "path": None, "image_size": 32, "test_fraction": 0.2, "partition": {"kind": "iid"}}

MODELS = {
    "mlp": ({"name": "mlp", "dropout": 0.5, "width": 64}, BASE["data"]),
    "lenet": ({"name": "lenet", "dropout": 0.5}, BASE["data"]),
    "resnet18": ({"name": "resnet18", "dropout": 0.5, "width": 8}, PHOTOS),
    "resnet18-group": ({"name": "resnet18", "dropout": 0.5, "width": 8, "norm": "group"}, PHOTOS),
    "vit": ({"name": "vit", "dropout": 0.25, "depth": 2, "width": 64, "heads": 4, "mlp": 64}, PHOTOS),
}


TRAINED = {
    "name": "trained",
    "model": {"name": "mlp", "width": 32, "dropout": 0.5},
    "federation": {"clients": 3, "clients_per_round": 2, "rounds": 2, "local": {"batch_size": 2}},
    "victims": {"rounds": [1, 2]},
    "attacks": ["null_mean"],
    "metrics": ["mse"],
    "defenses": ["none", {"name": "dropout", "p": 0.75}, {"name": "gaussian_noise", "std": 0.01}],
    "sweep": {"model.pretrain": [None, {"steps": 150}]},
}
"""A scenario whose models are attacked untrained and pretrained."""


def trained_cells() -> dict[str, Work]:
    return {cell_key(cell): cell.work() for cell in every_cell(parse(TRAINED))}


def checkpoint(directory: Path) -> Path:
    """A file of weights that no initialisation gives, for the model of `BASE`."""
    path = directory / "own.safetensors"
    if not path.exists():
        write_tensors(path, {name: value + 0.01 for name, value in Plan(work(seed=77)).model().state_dict().items()})
    return path


def checkpoint_cell(path: Path) -> Work:
    return work(start={"checkpoint": {"path": str(path), "content": models.fingerprint(str(path))}})


def work(local: dict | None = None, **changes: object) -> Work:
    described = {**copy.deepcopy(BASE), **copy.deepcopy(changes)}
    described["federation"]["local"] |= local or {}
    return Work.from_dict(described)


def consistency_cells() -> dict[str, Work]:
    cells = {}
    for name, (model, data) in MODELS.items():
        for share, steps in (("gradient", 1), ("weights", 2)):
            for precision in ("float32", "float64"):
                local = {"share": share, "steps": steps, "precision": precision, "batch_size": 4}
                cells[f"{name}-{share}-{precision}"] = work(local, model=model, data=data)
    model, data = MODELS["mlp"]
    apart = {
        "schedule": {"name": "step", "gamma": 0.5},
        "groups": [{"parameters": ["*.bias"], "scale": 3.0, "optimizer": {"name": "sgd", "momentum": 0.9}}],
    }
    local = {"share": "weights", "steps": 2, "precision": "float64", "batch_size": 4, **apart}
    cells["trained-apart"] = work(local, model=model, data=data)
    return cells

"""Descriptions of the cells that the tests of this folder train."""

from __future__ import annotations

import copy

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

PHOTOS = {"name": "photos", "path": None, "image_size": 32, "test_fraction": 0.2, "partition": {"kind": "iid"}}

MODELS = {
    "mlp": ({"name": "mlp", "dropout": 0.5, "width": 64}, BASE["data"]),
    "lenet": ({"name": "lenet", "dropout": 0.5}, BASE["data"]),
    "resnet18": ({"name": "resnet18", "dropout": 0.5, "width": 8}, PHOTOS),
    "resnet18-group": ({"name": "resnet18", "dropout": 0.5, "width": 8, "norm": "group"}, PHOTOS),
    "vit": ({"name": "vit", "dropout": 0.25, "depth": 2, "width": 64, "heads": 4, "mlp": 64}, PHOTOS),
}


def work(local: dict | None = None, **changes: object) -> dict:
    described = {**copy.deepcopy(BASE), **copy.deepcopy(changes)}
    described["federation"]["local"] |= local or {}
    return described


def consistency_cells() -> dict[str, dict]:
    cells = {}
    for name, (model, data) in MODELS.items():
        for share, steps in (("gradient", 1), ("weights", 2)):
            for precision in ("float32", "float64"):
                local = {"share": share, "steps": steps, "precision": precision, "batch_size": 4}
                cells[f"{name}-{share}-{precision}"] = work(local, model=model, data=data)
    return cells

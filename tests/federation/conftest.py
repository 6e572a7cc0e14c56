"""One real Flower simulation on one real Ray serves all tests of this folder: its cells are trained once."""

from __future__ import annotations

import copy

import pytest

from fedsim.runs.cluster import cluster
from fedsim.runs.directory import RunDirectory
from fedsim.runs.simulation import simulate

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


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Every cell that the tests of this folder look at."""
    directory = RunDirectory(tmp_path_factory.mktemp("federation"))
    (directory.path / "cells").mkdir()
    cells = {
        **consistency_cells(),
        "again": work(),
        "first": work(),
        "other-defense": work(defense=[{"name": "gaussian_noise", "std": 0.1}]),
        "other-seed": work(seed=1),
        "exploding": work({"learning_rate": 1e38, "share": "weights", "steps": 3}),
        "refused": work(model={"name": "no_such_model"}),
        "utility": work(utility={"rounds": 8, "local": {"batch_size": 32, "steps": 5, "learning_rate": 0.5}}),
        "dirichlet": work(data={**BASE["data"], "partition": {"kind": "dirichlet", "alpha": 1.0}}),
        "dp": work(defense=[{"name": "dp_sgd", "noise_multiplier": 1.0, "max_grad_norm": 1.0}]),
    }
    with cluster() as address:
        simulate(directory, cells, address=address, on_done=lambda count: None)
    return directory

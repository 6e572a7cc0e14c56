"""One real Flower simulation on one real Ray serves all tests of this folder: its cells are trained once."""

from __future__ import annotations

import pytest
from federation_cells import BASE, checkpoint, checkpoint_cell, consistency_cells, trained_cells, work

from fedsim.runs.cluster import cluster
from fedsim.runs.directory import RunDirectory
from fedsim.runs.simulation import simulate


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Every cell that the tests of this folder look at."""
    directory = RunDirectory(tmp_path_factory.mktemp("federation"))
    (directory.path / "cells").mkdir()
    cells = {
        **consistency_cells(),
        **trained_cells(),
        "checkpoint": checkpoint_cell(checkpoint(directory.path)),
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

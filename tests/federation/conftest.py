"""One real Flower simulation on one real Ray serves all tests of this folder: its cells are trained once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from built_once import built_once
from federation_cells import (
    BASE,
    CENTRAL,
    MALICIOUS,
    UTILITY,
    checkpoint,
    checkpoint_cell,
    consistency_cells,
    trained_cells,
    work,
)

from fedsim.runs.cluster import cluster
from fedsim.runs.directory import RunDirectory
from fedsim.runs.simulation import simulate

OWN_NET = """\
from torch import nn
def make(input_shape, classes):
    width = int(open("width.txt").read())
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, width), nn.Sigmoid(), nn.Linear(width, classes))
"""
"""A user's model that reads a file by a path relative to the directory in which the command was started."""

DYING_NET = """\
import os, sys
from torch import nn
class Net(nn.Sequential):
    def forward(self, x):
        frames, frame = [], sys._getframe()
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        trains = any(f.f_code.co_name == "train_client" for f in frames)
        if trains and not os.path.exists("died"):
            open("died", "w").close()
            os._exit(3)
        return super().forward(x)
def make(input_shape, classes):
    return Net(nn.Flatten(), nn.Linear(28 * 28, classes))
"""
"""A model that takes the first process that trains it with it."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Clients and trainings have one thread each, and so has what is computed here to compare with them: two add up in
    another order, and after 60 steps that is 7 of 1000 test images."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Every cell that the tests of this folder look at; it is shared by processes, so nothing may be written there."""
    return RunDirectory(built_once(tmp_path_factory, "federation", _trained))


def _trained(path: Path) -> None:
    directory = RunDirectory(path)
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
        "utility": work(defense=[{"name": "clip", "norm": 0.5}], utility=UTILITY),
        "dirichlet": work(data={**BASE["data"], "partition": {"kind": "dirichlet", "alpha": 1.0}}),
        "factory": work(model={"factory": "fed_net:make"}),
        "dying": work(model={"factory": "dying_net:make"}),
        "central": work(defense=CENTRAL),
        "sum": work(defense=[{"name": "secure_aggregation"}]),
        "signs": work({"share": "weights", "steps": 2}, defense=[{"name": "sign"}]),
        "malicious": work(victims={"rounds": [1], "clients": 2}, malicious=MALICIOUS),
        "dp": work(defense=[{"name": "dp_sgd", "noise_multiplier": 1.0, "max_grad_norm": 1.0}]),
    }
    (directory.path / "fed_net.py").write_text(OWN_NET)
    (directory.path / "dying_net.py").write_text(DYING_NET)
    (directory.path / "width.txt").write_text("16")
    with contextlib.chdir(directory.path), cluster() as address:
        simulate(directory, cells, address=address, on_done=lambda count: None)

"""A simulation that cannot leave, since a client never came back, is gone a while after its cells are done."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import time
from pathlib import Path
from fedsim.federation import simulate
from fedsim.federation.order import Order, Ordered
from fedsim.scenario import every_cell, parse

simulate.LEAVE_SECONDS = 0.5

class Grid:
    def get_node_ids(self):
        return []
    def send_and_receive(self, messages, *, timeout=None):
        return []

def never_returns(server_app, **how):
    server_app(grid=Grid(), context=None)
    print("served", flush=True)
    time.sleep(600)

simulate.run_simulation = never_returns
simulate.OrderedGrid = lambda grid, **how: OrderedGrid(grid, patience=0.1, **how)
from fedsim.federation.grid import OrderedGrid

[cell] = every_cell(parse({"name": "mine", "model": {"name": "mlp", "width": 8}, "attacks": []}))
cells = [Ordered(cell.work(), Path("cells/a"), 60.0), Ordered(cell.work(), Path("cells/b"), 60.0)]
simulate.simulate(Order(address="", pretrained=Path("pretrained"), salt="", cells=cells))
"""


def test_it_is_ended_and_every_cell_has_its_reason(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 4, done.stderr
    assert done.stdout == "served\n"
    for name in "ab":
        said = (tmp_path / "cells" / f"{name}.error.json").read_text()
        assert "0 of 4 clients answered the first query" in said

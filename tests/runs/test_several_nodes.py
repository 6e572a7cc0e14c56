"""A Ray cluster of several nodes: a run completes on it, a node or the head may go away while it is at work.

The nodes are Ray's own test cluster: each has a raylet, an object store and workers of its own, on this machine. They
are asked for by a process of its own, so that nothing of the driver's reaches a worker but what Ray carries.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

import fedsim

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

NODES = """
import logging, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
others = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "node":
        cluster.remove_node(others.pop(), allow_graceful=False)
    elif line.strip() == "head":
        cluster.remove_node(cluster.head_node, allow_graceful=False)
    else:
        break
    print("gone", flush=True)
cluster.shutdown()
"""

VICTIM = ["defense", "attack", "client"]
SCORES = [*VICTIM, "mse", "psnr", "attack_loss"]


class Nodes:
    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NODES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )
        self.address = self._said()

    def lose(self, which: str) -> None:
        self._process.stdin.write(f"{which}\n")
        self._process.stdin.flush()
        assert self._said() == "gone"

    def end(self) -> None:
        self._process.communicate("end\n", timeout=120)

    def _said(self) -> str:
        return self._process.stdout.readline().strip()


@pytest.fixture
def nodes(tmp_path) -> Iterator[Nodes]:
    folder = tmp_path / "nodes"
    folder.mkdir()
    started = Nodes(folder)
    yield started
    started.end()


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> pl.DataFrame:
    """The same scenario on one machine."""
    out = tmp_path_factory.mktemp("alone") / "smoke"
    done = _start(out)
    assert done.wait(timeout=900) == 0
    return _scores(out)


def _start(out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedsim.cli", "run", "smoke", "--out", str(out), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=out.parent)


def _scores(out: Path) -> pl.DataFrame:
    results = fedsim.Run(out).results
    assert set(results["status"]) == {"ok"}
    return results.select(SCORES).sort(VICTIM)


def _wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 900
    while not there():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_run_on_several_nodes_is_the_same(nodes, tmp_path, alone):
    process = _start(tmp_path / "smoke", "--ray-address", nodes.address)
    assert process.wait(timeout=900) == 0, process.stderr.read()
    assert _scores(tmp_path / "smoke").equals(alone)


@pytest.mark.parametrize("moment", ["cells/*", "jobs/*/job.json"], ids=["before the attacks", "during the attacks"])
def test_a_node_that_goes_away_costs_nothing_that_lasts(nodes, tmp_path, alone, moment):
    """The run completes, or says in one line why not; then the same command goes on with it."""
    out = tmp_path / "smoke"
    process = _start(out, "--ray-address", nodes.address)
    _wait_for(lambda: any(out.glob(moment)), process)
    nodes.lose("node")
    _, said = process.communicate(timeout=900)
    assert "Traceback" not in said
    if process.returncode:
        again = _start(out, "--ray-address", nodes.address)
        assert again.wait(timeout=900) == 0, again.stderr.read()
    assert _scores(out).equals(alone)


def test_where_the_head_goes_away_the_run_ends_in_one_line_and_goes_on_elsewhere(nodes, tmp_path, alone):
    out = tmp_path / "smoke"
    process = _start(out, "--ray-address", nodes.address)
    _wait_for(lambda: any(out.glob("jobs/*/job.json")), process)
    nodes.lose("head")
    _, said = process.communicate(timeout=900)
    assert process.returncode not in (0, -6), said
    assert "Traceback" not in said
    kept = {path: path.stat().st_mtime_ns for path in out.glob("jobs/*/job.json")}
    again = _start(out)
    assert again.wait(timeout=900) == 0, again.stderr.read()
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert _scores(out).equals(alone)

"""What `fedsim plan` says of a run, beside what the run takes: on one node of this machine, and on several.

    python benchmarks/planned.py                           # smoke, on 1 and 3 nodes
    python benchmarks/planned.py --scenario S --nodes 1 2

The nodes are those of Ray's test cluster, of one processor each, all on this machine: their processor seconds and
memory are those of as many machines, their time is not. On a busy machine compare processor seconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from scale import MARK, Watch

from fedsim import scenario as scenarios
from fedsim.runs import calibration, estimate
from fedsim.runs.needs import Nodes, needs

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
others = [cluster.add_node(num_cpus=1) for _ in range(int(sys.argv[1]) - 1)]
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="smoke")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 3])
    arguments = parser.parse_args()
    print("nodes            cpu s  GB in all  seconds  outcome", flush=True)
    for count in arguments.nodes:
        with tempfile.TemporaryDirectory(prefix="planned-") as temporary:
            planned = plan(arguments.scenario, Path(temporary) / "run", Nodes(count, 1))
            print(f"{count:>5}  planned {planned[0]:>6.0f} {planned[1]:>10.2f} {planned[2]:>8.0f}", flush=True)
            *measured, outcome = run(arguments.scenario, Path(temporary), count)
        print(f"       measured {measured[0]:>6.0f} {measured[1]:>9.2f} {measured[2]:>8.0f}  {outcome}")
        ratios = [mine / other for mine, other in zip(planned, measured, strict=True)]
        print(f"       ratio    {ratios[0]:>6.2f} {ratios[1]:>9.2f} {ratios[2]:>8.2f}", flush=True)


def plan(name: str, out: Path, nodes: Nodes) -> tuple[float, float, float]:
    """Processor seconds, GB of all nodes together, seconds."""
    todo, _ = estimate.counted(scenarios.load(name), out)
    found = needs(todo, calibration.measured(), nodes)
    return found.starting + found.working, (found.first + (nodes.count - 1) * found.other) / 1e9, found.seconds


def run(name: str, folder: Path, nodes: int) -> tuple[float, float, float, str]:
    mark = uuid4().hex
    environment = {**os.environ, MARK: mark}
    with cluster(nodes, environment, folder) as address:
        began = time.perf_counter()
        words = [sys.executable, "-m", "fedsim.cli", "run", name, "--out", str(folder / "run")]
        words += ["--ray-address", address]
        done = subprocess.Popen(words, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        watch = Watch(mark, done.pid)
        done.communicate()
        seconds = time.perf_counter() - began
        watch.stop()
    return watch.cpu, watch.peak, seconds, "done" if done.returncode == 0 else f"exit {done.returncode}"


@contextmanager
def cluster(nodes: int, environment: dict[str, str], folder: Path) -> Iterator[str]:
    """Its address; its processes carry the mark too."""
    command = [sys.executable, "-c", CLUSTER, str(nodes)]
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate("end\n", timeout=300)


if __name__ == "__main__":
    main()

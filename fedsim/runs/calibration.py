"""How long a process takes here until it can train or attack, and what memory it has then: measured on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from fedsim import paths
from fedsim.errors import FedsimError

_PROCESS = """
import json, resource, sys, time
import fedsim.federation.client, fedsim.runs.attack, fedsim.runs.worker
import torch
torch.zeros(8).sum()
try:
    with open("/proc/self/smaps_rollup") as file:
        pairs = (line.split()[:2] for line in file.readlines()[1:])
    kept = {name.rstrip(":"): 1024 * int(size) for name, size in pairs}
    own = kept["Private_Clean"] + kept["Private_Dirty"]
    shared = kept["Rss"] - own
except OSError:
    unit = 1 if sys.platform == "darwin" else 1024
    own, shared = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, 0
print(json.dumps({"start": time.process_time(), "own": own, "shared": shared}))
"""


@dataclass(frozen=True)
class Machine:
    """
    Args:
        start: processor seconds that a process needs before it can train or attack: it imports PyTorch and Flower.
        own: bytes of its memory that are its own alone; where the system does not tell them apart, all.
        shared: bytes that all such processes of a machine have together.
    """

    start: float
    own: int
    shared: int


def measured() -> Machine:
    """Of this machine, which takes as long as it takes to start such a process.

    Raises:
        FedsimError: it cannot be started.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-c", _PROCESS],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **paths.told()},
    )
    if done.returncode != 0:
        raise FedsimError(f"a worker's process cannot be started: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return Machine(**json.loads(done.stdout.splitlines()[-1]))

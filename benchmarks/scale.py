"""What a run costs as it grows: seconds, processor seconds, and the memory of all its processes at its peak.

    python benchmarks/scale.py                     # all rows: about an hour on 2 idle cores
    python benchmarks/scale.py --only clients      # clients, rounds, cells or jobs
    python benchmarks/scale.py --only clients --sizes 10 100

Each row is `fedsim run` of a small scenario (an MLP of one layer of 64 units on MNIST, the null attacks alone unless
jobs are what is counted) in a process of its own. What that starts, Ray and its workers among it, is known by a mark in
its environment, so that other work on the machine does not count. Memory that several processes share is counted once.
*growth* is the exponent of processor seconds between a row and the row before: 0 costs the same, 1 in proportion.

A report of many rows: `python benchmarks/report.py --cells 100 --attacks 16`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from fedsim.files import write_text

SIZES = {
    "clients": (10, 100, 1000, 10_000),
    "rounds": (1, 20),
    "cells": (2, 20, 100),
    "jobs": (100, 1000, 10_000),
}
BUNDLED = 4000
MARK = "FEDSIM_SCALE"
TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(SIZES))
    parser.add_argument("--sizes", type=int, nargs="+")
    arguments = parser.parse_args()
    print("      of    size  seconds    cpu s  peak GB driver GB  growth  outcome", flush=True)
    for what in [arguments.only] if arguments.only else list(SIZES):
        before = None
        for size in arguments.sizes or SIZES[what]:
            row = measured(scenario(what, size))
            growth = "" if before is None else f"{_exponent(before, (size, row['cpu'])):.2f}"
            print(
                f"{what:>8} {size:>7} {row['seconds']:>8.0f} {row['cpu']:>8.0f} {row['peak']:>8.2f} "
                f"{row['driver']:>9.2f} {growth:>7}  {row['outcome']}",
                flush=True,
            )
            before = size, row["cpu"]


def scenario(what: str, size: int) -> dict[str, Any]:
    """One whose named part has this size, and all else is small."""
    clients = size if what == "clients" else 4
    found: dict[str, Any] = {
        "name": "scale",
        "data": {"name": "mnist"},
        "model": {"name": "mlp", "width": 64, "depth": 1},
        "federation": {
            "clients": clients,
            "clients_per_round": clients,
            "rounds": size if what == "rounds" else 1,
            "local": {"batch_size": 1, "steps": 1, "learning_rate": 0.1},
        },
        "victims": {"rounds": [1], "clients": 2},
        "attacks": [],
        "defenses": ["none"],
        "metrics": ["psnr"],
    }
    if what == "cells":
        found["seeds"] = list(range(size))
    if what == "jobs":  # an attack a job, each on one victim
        found["victims"] = {"rounds": [1], "clients": 4}
        found["engine"] = {"chunk": 1}
        found["seeds"] = [0]
        attack = {"name": "inverting_gradients", "iterations": 1}  # it is the queue that is measured
        found["attacks"] = [attack | {"learning_rate": round(0.1 + 1e-6 * n, 6)} for n in range(size // 4)]
    return found


def measured(what: dict[str, Any]) -> dict[str, Any]:
    """Run it; seconds, processor seconds, GB at the peak of all processes and of the driver alone."""
    mark = uuid4().hex
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        if (clients := what["federation"]["clients"]) > BUNDLED:  # more than there are digits to deal out
            what = {**what, "data": {"name": "npz", "path": "noise.npz"}}
            random = np.random.default_rng(0)
            images = random.integers(0, 256, (2 * clients, 28, 28), dtype=np.uint8)
            np.savez(Path(temporary) / "noise.npz", x=images, y=np.arange(2 * clients) % 10)
        file = Path(temporary) / "scale.yaml"
        write_text(file, json.dumps(what))  # which is YAML
        command = [sys.executable, "-m", "fedsim.cli", "run", str(file), "--out", str(Path(temporary) / "run")]
        began = time.perf_counter()
        done = subprocess.Popen(
            command, env={**os.environ, MARK: mark}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        watch = Watch(mark, done.pid)
        _, said = done.communicate()
        seconds = time.perf_counter() - began
        watch.stop()
    outcome = "done" if done.returncode == 0 else f"exit {done.returncode}: {said.strip().splitlines()[-1:]}"
    return {"seconds": seconds, "cpu": watch.cpu, "peak": watch.peak, "driver": watch.driver, "outcome": outcome}


class Watch(threading.Thread):
    """Looks every so often at the processes that carry a mark.

    Args:
        driver: the process of the command itself.
    """

    EVERY = 0.5

    def __init__(self, mark: str, driver: int) -> None:
        super().__init__(daemon=True)
        self._mark, self._driver, self._ended = f"{MARK}={mark}".encode(), driver, threading.Event()
        self._times: dict[str, float] = {}
        self.peak = self.driver = 0.0
        self.start()

    @property
    def cpu(self) -> float:
        """Seconds of all processes that were seen, as they were seen last."""
        return sum(self._times.values())

    def run(self) -> None:
        while not self._ended.wait(self.EVERY):
            together = 0.0
            for process in self._marked():
                try:
                    size = _gigabytes(process)
                    self._times[process.name] = _seconds(process)
                except OSError:  # it has ended
                    continue
                together += size
                if int(process.name) == self._driver:
                    self.driver = max(self.driver, size)
            self.peak = max(self.peak, together)

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _marked(self) -> Iterator[Path]:
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                try:
                    if self._mark in (process / "environ").read_bytes():
                        yield process
                except OSError:
                    continue


def _gigabytes(process: Path) -> float:
    """Of its memory what is its own, and its part of what it shares."""
    for line in (process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 2**20
    return 0.0


def _seconds(process: Path) -> float:
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _exponent(before: Sequence[float], now: Sequence[float]) -> float:
    return math.log(max(now[1], 1e-9) / max(before[1], 1e-9)) / math.log(now[0] / before[0])


if __name__ == "__main__":
    main()

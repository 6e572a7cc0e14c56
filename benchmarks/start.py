"""How long the commands take that people wait for: each in a process of its own, the best of several.

    python benchmarks/start.py
    python benchmarks/start.py --smoke      # the smoke run too

The first `list` and `schema` after a change of the source have PyTorch imported; that is the column `first`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = (
    ["--help"],
    ["list", "attacks"],
    ["schema"],
    ["check", "smoke"],
    ["check", "quickstart"],
    ["check", "defenses"],
)


def seconds(words: list[str], environment: dict[str, str], folder: str) -> tuple[float, float]:
    """Of one process: on the clock, and of processors."""
    before, began = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "fedsim.cli", *words]
    subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="the smoke run as well, once")
    arguments = parser.parse_args()
    root = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "XDG_CACHE_HOME": folder, "PYTHONPATH": path}
        print("| command | first | best | processor seconds |\n|---|---|---|---|")
        for words in COMMANDS:
            first, *others = [seconds(words, environment, folder) for _ in range(1 + arguments.repeats)]
            best = min(others)
            print(f"| `fedsim {' '.join(words)}` | {first[0]:.2f} s | {best[0]:.2f} s | {best[1]:.2f} |", flush=True)
        if arguments.smoke:
            wall, processor = seconds(["run", "smoke", "--out", f"{folder}/smoke"], environment, folder)
            print(f"| `fedsim run smoke` | {wall:.1f} s | | {processor:.1f} |")


if __name__ == "__main__":
    main()

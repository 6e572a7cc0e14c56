"""Runs a scenario, and says in Flower's log what `fedsim run` says.

The cells of a scenario differ in how many clients they have and what these need, so that fedsim starts a simulation for
each size by itself: in a process of its own, beside the nodes that Flower keeps ready for this app and that stay idle.
"""

from __future__ import annotations

import logging
import subprocess
import sys

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

LOG = logging.getLogger("flwr")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    scenario, out = str(context.run_config["scenario"]), str(context.run_config["out"])
    command = [sys.executable, "-m", "fedsim.cli", "run", scenario, *(["--out", out] if out else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        for line in child.stdout or ():
            LOG.info("%s", line.rstrip())
    if child.returncode:
        raise RuntimeError(f"fedsim run {scenario} ended with exit code {child.returncode}; the reason stands above")

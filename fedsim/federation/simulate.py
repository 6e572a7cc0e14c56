"""The simulation process: runs the pending cells of a run directory on Flower, attached to a Ray that already runs.

    python -P -m fedsim.federation.simulate ORDER.json

It is a process of its own because Flower's Ray backend shuts its Ray connection down when a simulation ends, which
would take the parent's with it. Cells of equal size and resources share one simulation: the actors start once. A cell
that fails leaves `<target>.error.json`.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fedsim.errors import reason_of
from fedsim.federation.client import app as client_app
from fedsim.federation.grid import OrderedGrid, Unanswered
from fedsim.federation.mailbox import keep_in_order
from fedsim.federation.order import Order, Ordered
from fedsim.federation.plan import Plan
from fedsim.federation.server import run_cell
from fedsim.federation.workers import Measurement, workers
from fedsim.files import write_json

# A client whose process died would take its actor with it for ever, and Flower would go on handing clients to it. So
# Ray starts it again, and what was sent to it meanwhile waits instead of failing: it does where tasks may be retried.
_LASTING = {"max_restarts": -1, "max_task_retries": 1}

LEAVE_SECONDS = 60.0
"""How long a simulation may take to leave once its cells are done."""

STUCK = 4
"""The exit code of a process that could not leave: a thread of it waits for a client that never comes back."""


def simulate(order: Order) -> None:
    """Run all cells of an order, grouped by what one simulation can serve."""
    neutral = os.getcwd()
    for (clients, cpus, gpus), cells in itertools.groupby(order.cells, key=lambda cell: cell.group):
        os.chdir(neutral)  # Ray puts it first on its workers' path, and a user's factory has led elsewhere
        leaving = threading.Timer(LEAVE_SECONDS, os._exit, [STUCK])
        leaving.daemon = True
        app = _server_app(list(cells), clients, cpus, order.pretrained, order.salt, on_end=leaving.start)
        run_simulation(
            server_app=app,
            client_app=client_app,
            num_supernodes=clients,
            backend_config={
                "init_args": {"address": order.address, "log_to_driver": False, "logging_level": "ERROR"},
                "client_resources": {"num_cpus": cpus, "num_gpus": gpus, **_LASTING},
            },
        )
        leaving.cancel()


def _server_app(
    cells: Sequence[Ordered], clients: int, cpus: int, store: Path, salt: str, *, on_end: Callable[[], None]
) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            serve(grid)
        finally:
            on_end()

    def serve(grid: Grid) -> None:
        try:
            ordered = OrderedGrid(grid, nodes=clients, at_once=lambda: _processors() // cpus)
        except Unanswered as error:
            for cell in cells:
                _write_error(cell.target, error)
            return
        measurements: dict[Path, Measurement] = {}
        with workers([cell.work for cell in cells], store) as at_hand:
            for cell in cells:
                with _reported(cell.target):
                    measurements[cell.target] = at_hand.begin(cell.work)
            for cell in cells:
                if cell.target in measurements:
                    with _reported(cell.target):
                        plan, measured = Plan(cell.work, salt), measurements[cell.target]
                        run_cell(ordered, plan, cell.target, store, measured, deadline=cell.deadline)

    return app


@contextmanager
def _reported(target: Path) -> Iterator[None]:
    """One cell's fault costs its own rows only."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        _write_error(target, error)


def _write_error(target: Path, error: Exception) -> None:
    write_json(target.with_name(f"{target.name}.error.json"), {"reason": reason_of(error)})


def _processors() -> int:
    return int(ray.cluster_resources().get("CPU", 1))


def _die_with_parent() -> None:
    """A killed parent must not leave a simulation behind (Linux; elsewhere the parent's own clean-up has to do)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() == 1:
            sys.exit(1)


if __name__ == "__main__":
    _die_with_parent()
    torch.set_num_threads(1)
    keep_in_order()
    simulate(Order.read(Path(sys.argv[1])))

"""Start the simulation process for the pending cells, and watch it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from fedsim.federation.order import Order, Ordered
from fedsim.files import write_json
from fedsim.paths import told
from fedsim.runs.directory import RunDirectory
from fedsim.scenario.work import Work

POLL_SECONDS = 0.2


def simulate(
    directory: RunDirectory, works: dict[str, Work], *, address: str, on_done: Callable[[int], None]
) -> None:
    """Train the cells `{key: work}` in one child process attached to the Ray at `address`.

    Afterwards each cell has its directory, or an error file with the reason. `on_done` is called with the number of
    finished cells as it grows.
    """
    for key in works:
        directory.cell_error(key).unlink(missing_ok=True)
    order = Order(
        address=address,
        pretrained=directory.pretrained.absolute(),
        salt=directory.salt() or "",
        cells=[Ordered(work, directory.cell(key).absolute()) for key, work in works.items()],
    )
    with tempfile.TemporaryDirectory(prefix="fedsim-") as neutral:
        file = Path(neutral) / "order.json"
        order.write(file)
        with directory.log.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedsim.federation.simulate", str(file)],
                cwd=neutral,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **told()},
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
            try:
                while child.poll() is None:
                    on_done(_finished(directory, works))
                    time.sleep(POLL_SECONDS)
            finally:
                child.kill()
                child.wait()
    on_done(_finished(directory, works))
    for key in works:
        if not directory.cell(key).exists() and not directory.cell_error(key).exists():
            ended = f"the simulation ended with exit code {child.returncode} ({_last_line(directory.log)})"
            write_json(directory.cell_error(key), {"reason": f"{ended}; see {directory.log}"})


def _finished(directory: RunDirectory, keys: Iterable[str]) -> int:
    return sum(directory.cell(key).exists() or directory.cell_error(key).exists() for key in keys)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"

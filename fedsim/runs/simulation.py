"""Start the simulation process for the pending cells, watch it, and start it again for what it left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fedsim import paths
from fedsim.federation.order import Order, Ordered
from fedsim.files import write_json
from fedsim.runs.directory import RunDirectory
from fedsim.scenario.training import Federation
from fedsim.scenario.work import Work

POLL_SECONDS = 0.2

USUAL_DEADLINE = 60 * Federation().deadline


def simulate(
    directory: RunDirectory,
    works: Mapping[str, Work],
    deadlines: Mapping[str, float] | None = None,
    *,
    address: str,
    on_done: Callable[[int], None],
) -> None:
    """Train the cells `{key: work}` in a child process attached to the Ray at `address`.

    Afterwards each cell has its directory, or an error file with the reason. A cell that is there already is replaced
    once it is trained again. Where the process dies, another goes on with what is left; the cell that it was at is
    tried a second time, and then has the error.

    Args:
        deadlines: seconds that a client may take for a round, by cell.
        on_done: called with the number of finished cells as it grows.
    """
    told = deadlines or {}
    cells = {
        key: Ordered(work, directory.cell(key).absolute(), told.get(key, USUAL_DEADLINE)) for key, work in works.items()
    }
    left = sorted(cells, key=lambda key: cells[key].group)
    before = {key: _identity(directory.cell(key)) for key in left}
    for key in left:
        directory.cell_error(key).unlink(missing_ok=True)

    def finished(key: str) -> bool:
        return directory.cell_error(key).exists() or _identity(directory.cell(key)) not in (None, before[key])

    def report() -> None:
        on_done(sum(map(finished, cells)))

    deaths: Counter[str] = Counter()
    dropped = 0  # one after the other, without a cell that was trained between them
    while left:
        code = _run(directory, [cells[key] for key in left], address, report)
        still = [key for key in left if not finished(key)]
        dropped = dropped if len(still) == len(left) else 0
        left = still
        if not left:
            break
        deaths[left[0]] += 1
        if deaths[left[0]] < 2:
            continue
        dropped += 1
        gone = left if dropped > 1 else left[:1]
        for key in gone:
            ended = f"the simulation ended with exit code {code} ({_last_line(directory.log)})"
            write_json(directory.cell_error(key), {"reason": f"{ended}; see {directory.log}"})
        left = left[len(gone) :]
    report()


def _run(directory: RunDirectory, cells: Sequence[Ordered], address: str, report: Callable[[], None]) -> int:
    """Run one simulation to its end; returns its exit code. `report` is called now and then."""
    order = Order(
        address=address, pretrained=directory.pretrained.absolute(), salt=directory.salt() or "", cells=cells
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
                env={**os.environ, "OMP_NUM_THREADS": "1", **paths.told()},
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
            try:
                while child.poll() is None:
                    report()
                    time.sleep(POLL_SECONDS)
            finally:
                child.kill()
                child.wait()
    return child.returncode


def _identity(path: Path) -> int | None:
    """What changes where a directory is replaced by another; None where there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"

"""What a run directory holds so far, for those who look at it: the table, what is missing from it, the pictures.

A finished run has its table in a file. One that is still going, or that was killed, has an older table or none: then
the rows are put together from what its jobs have left, and `missing` counts what has not been done.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fedsim import scenario as scenarios
from fedsim.archives import read_npz
from fedsim.errors import BadInput, Damaged
from fedsim.runs.attacking import error_file
from fedsim.runs.directory import MARKER, RunDirectory
from fedsim.runs.jobs import cell_key, cells_of, jobs_of
from fedsim.runs.results import assemble, score_key
from fedsim.scenario import Scenario, every_cell
from fedsim.table import read_valid
from fedsim.version import __version__


@dataclass(frozen=True)
class Missing:
    """How far a run is, and what it has not done yet.

    Args:
        cells: the federations to train; `untrained` names those that have not been, each by its model, defense and
            seed.
        jobs: the attack jobs on the cells that are trained; `unfinished` counts those without an answer by attack.
        unknown: why it cannot be told; empty where it can.
        trained: how many of the cells are.
        attacked: how many of these have an answer of each of their jobs.
    """

    cells: int = 0
    untrained: tuple[str, ...] = ()
    jobs: int = 0
    unfinished: tuple[tuple[str, int], ...] = ()
    unknown: str = ""
    trained: int = 0
    attacked: int = 0

    def __bool__(self) -> bool:
        return bool(self.untrained or self.unfinished or self.unknown)


def results(directory: RunDirectory) -> pl.DataFrame:
    """One row per reconstructed image, as far as the run has come; the columns are those of `fedsim.table.SCHEMA`.

    Raises:
        BadInput: the table's file is damaged or has other columns; or there is no table and none can be put together.
    """
    path = directory.results
    if path.exists() and path.stat().st_mtime >= (directory.path / MARKER).stat().st_mtime:
        return read_table(path)
    so_far = _so_far(directory)  # the marker is younger than the table: a run began that has not ended
    if isinstance(so_far, Scenario):
        rows = assemble(directory, so_far)
        if len(rows) or not path.exists():
            return rows
    if path.exists():
        return read_table(path)
    raise BadInput(f"{directory.path}: the run has no results yet, and {so_far}; go on with it by `fedsim run`")


def missing(directory: RunDirectory) -> Missing:
    """What the scenario asks for and the directory does not hold."""
    scenario = _so_far(directory)
    if isinstance(scenario, str):
        return Missing(unknown=scenario)
    untrained: dict[str, str] = {}
    scores: dict[str, tuple[str, bool]] = {}  # cells that are attacked in several ways share a federation: once each
    trained: dict[str, bool] = {}  # whether all of its jobs have answered
    keys = [(cell_key(cell), cell) for cell in cells_of(directory, scenario)]
    for key, cell in keys:
        if not directory.cell(key).exists():
            if not directory.cell_error(key).exists():
                model = cell.model_spec()
                untrained[key] = f"{model.get('name') or model['factory']}, {cell.label}, seed {cell.seed}"
            continue
        trained.setdefault(key, True)
        for job in jobs_of(directory, cell):
            score = score_key(job, cell.scenario)
            done = (directory.score(score) / "rows.parquet").exists() or error_file(directory, job).exists()
            scores[score] = job.attack["name"], done
            trained[key] &= done
    unfinished = Counter(name for name, done in scores.values() if not done)
    return Missing(
        cells=len({key for key, _ in keys}),
        untrained=tuple(untrained.values()),
        jobs=len(scores),
        unfinished=tuple(unfinished.items()),
        trained=len(trained),
        attacked=sum(trained.values()),
    )


def pictures(directory: RunDirectory, job: str) -> tuple[np.ndarray, np.ndarray]:
    """The originals and matched reconstructions of a job: two uint8 arrays (N, H, W, C).

    Raises:
        FileNotFoundError: the job has no pictures, or their file is damaged.
    """
    path = directory.score(job) / "pictures.npz"
    try:
        stack = read_npz(path, ("original", "reconstruction"))
        original, reconstruction = stack["original"], stack["reconstruction"]
    except (ValueError, KeyError) as error:
        raise FileNotFoundError(f"{path}: damaged") from error
    if not original.dtype == reconstruction.dtype == np.uint8 or original.ndim != 4:
        raise FileNotFoundError(f"{path}: damaged")
    if original.shape != reconstruction.shape or original.shape[-1] not in (1, 3):
        raise FileNotFoundError(f"{path}: damaged")
    return original, reconstruction


def read_table(path: Path) -> pl.DataFrame:
    """A results file; raises BadInput where it is damaged or of another version."""
    try:
        return read_valid(path)
    except Damaged as damage:
        raise BadInput(f"{damage}; run the scenario again with fedsim {__version__}") from None


def _so_far(directory: RunDirectory) -> Scenario | str:
    """The scenario by which the directory's content can be found, or why it cannot."""
    marker = directory.marker()
    if "audit" in marker:
        return "it is an audit, whose page is audit.html"
    version = marker.get("version")
    if version != __version__:  # keys hash the version: what another one left is not found
        return f"fedsim {version} began it, where this is fedsim {__version__}"
    try:
        scenario = scenarios.parse(marker.get("scenario", {}), rehearsed=False, folder=marker.get("folder"))
        for cell in every_cell(scenario):
            cell.work()  # reads the user's own files
    except (BadInput, KeyError, OSError) as error:
        return f"its scenario cannot be read again ({str(error)[:160]})"
    return scenario

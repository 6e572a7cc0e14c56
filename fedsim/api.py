"""The Python API: run a scenario, look at what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from fedsim import scenario as scenarios
from fedsim.errors import BadInput
from fedsim.files import write_text
from fedsim.reporting import leaderboard as boards
from fedsim.reporting import query as queries
from fedsim.reporting import report as reports
from fedsim.runs.directory import RunDirectory
from fedsim.runs.execute import execute
from fedsim.runs.progress import View
from fedsim.runs.results import history
from fedsim.scenario import Scenario
from fedsim.version import versions


def run(
    scenario: str | Path | Scenario,
    *,
    out: str | Path | None = None,
    set: Sequence[str] = (),
    fresh: bool = False,
    ray_address: str | None = None,
    command: str | None = None,
    view: View | None = None,
) -> Run:
    """Run a scenario, or go on with it, and return what came of it.

    Args:
        scenario: a path, the name of a bundled scenario, or a `Scenario`.
        out: the run directory; `runs/<name>` if None.
        set: overrides, e.g. `["model.name=lenet", "seeds=[0, 1]"]`.
        fresh: begin anew.
        ray_address: an existing Ray cluster; None starts one.

    Raises:
        fedsim.errors.BadInput: the scenario or the directory cannot be used; nothing was written.

    Example:
        >>> import fedsim
        >>> run = fedsim.run("smoke", out=getfixture("tmp_path") / "smoke")
        >>> run.results["status"].unique().to_list()
        ['ok']
        >>> run.report().name
        'report.html'
    """
    loaded = scenario if isinstance(scenario, Scenario) else scenarios.load(scenario, set)
    directory = Path(out) if out is not None else Path("runs") / loaded.name
    command = command or f"fedsim run {loaded.name}"
    execute(loaded, directory, command=command, fresh=fresh, ray_address=ray_address, view=view)
    return Run(directory)


def results(runs: Sequence[str | Path]) -> pl.DataFrame:
    """The results of several runs as one table; the column `run` tells them apart.

    Args:
        runs: run directories; one that is named twice counts once.

    Raises:
        fedsim.errors.BadInput: a directory is no fedsim run, or has no results.
    """
    paths = {Path(path).resolve(): Path(path) for path in runs}.values()
    return queries.together({path: Run(path).results for path in paths})


@dataclass(frozen=True)
class Run:
    """A run directory, finished or not.

    Raises:
        fedsim.errors.BadInput: the directory is no fedsim run.
    """

    path: Path

    def __post_init__(self) -> None:
        RunDirectory(self.path).marker()

    @cached_property
    def results(self) -> pl.DataFrame:
        """One row per reconstructed image; the columns are those of `fedsim.table.SCHEMA`."""
        path = RunDirectory(self.path).results
        if not path.exists():
            raise BadInput(f"{self.path}: the run has no results yet; go on with it by `fedsim run`")
        return pl.read_parquet(path)

    @property
    def failed(self) -> bool:
        return bool((self.results["status"] == "failed").any())

    def pictures(self, job: str) -> tuple[np.ndarray, np.ndarray]:
        """The originals and matched reconstructions of a job: two uint8 arrays (N, H, W, C).

        Raises:
            FileNotFoundError: the job has no pictures.
        """
        with np.load(RunDirectory(self.path).score(job) / "pictures.npz", allow_pickle=False) as stack:
            return stack["original"], stack["reconstruction"]

    def sql(self, query: str) -> pl.DataFrame:
        """Answer a query by DuckDB; the table is called `results`, and SQL sees nothing else.

        Raises:
            fedsim.errors.BadInput: the query cannot be answered.
        """
        return queries.sql(self.results, query)

    def leaderboard(self) -> pl.DataFrame:
        return boards.build(self.results)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the defense evaluation report, one self-contained HTML file; returns its path."""
        target = Path(path) if path is not None else self.path / "report.html"
        marker = RunDirectory(self.path).marker()
        page = reports.html(
            self.results,
            self.pictures,
            scenario=marker["scenario"],
            history=history(RunDirectory(self.path), self.results),
            command=marker["command"],
            versions=versions(),
        )
        write_text(target, page)
        return target

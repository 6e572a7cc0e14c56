"""The Python API: run a scenario, look at what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from fedsim import scenario as scenarios
from fedsim.files import write_text
from fedsim.reporting import figures as grids
from fedsim.reporting import leaderboard as boards
from fedsim.reporting import mlflow_log, paper
from fedsim.reporting import query as queries
from fedsim.reporting import report as reports
from fedsim.runs import losses, reading
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
        """One row per reconstructed image, as far as the run has come; the columns are those of `fedsim.table.SCHEMA`.

        Raises:
            fedsim.errors.BadInput: there are none yet, or their file is damaged or of another version.
        """
        return reading.results(RunDirectory(self.path))

    @property
    def failed(self) -> bool:
        return bool((self.results["status"] == "failed").any())

    def pictures(self, job: str) -> tuple[np.ndarray, np.ndarray]:
        """The originals and matched reconstructions of a job: two uint8 arrays (N, H, W, C).

        Raises:
            FileNotFoundError: the job has no pictures, or their file is damaged.
        """
        return reading.pictures(RunDirectory(self.path), job)

    def sql(self, query: str) -> pl.DataFrame:
        """Answer a query by DuckDB; the table is called `results`, and SQL sees nothing else.

        Raises:
            fedsim.errors.BadInput: the query cannot be answered.
        """
        return queries.sql(self.results, query)

    @cached_property
    def losses(self) -> dict[str, dict[int, list[tuple[int, float]]]]:
        """By job and client the attack's loss over its iterations, thinned; jobs that kept none are left out."""
        return losses.by_row(RunDirectory(self.path))

    def figures(
        self, directory: str | Path | None = None, *, format: str = "pdf", wide: bool = False
    ) -> list[paper.Drawn]:
        """Draw the run as static figures for a paper; returns each with its files, or why there is nothing to draw.

        Args:
            directory: where to write them; `figures/` in the run if None.
            format: pdf, svg or png.
            wide: as wide as two columns (6.9 in) instead of one (3.3 in).

        Raises:
            fedsim.errors.BadInput: there is no such format.
        """
        target = Path(directory) if directory is not None else self.path / "figures"
        return list(paper.draw(self.results, self.pictures, self.losses, directory=target, format=format, wide=wide))

    def log_to_mlflow(self, *, tracking_uri: str | None = None, experiment: str = "fedsim") -> str:
        """Log the run to MLflow, which is an extra: `fedsim-privacy[mlflow]`; returns the id of the parent run.

        Raises:
            fedsim.errors.BadInput: MLflow is not installed, or cannot be written to.
        """
        marker = RunDirectory(self.path).marker()
        report = self.path / "report.html"
        return mlflow_log.log(
            self.results,
            self.losses,
            scenario=marker["scenario"],
            command=marker["command"],
            pictures={"reconstructions.png": grids.grid(self.results, self.pictures)},
            files=[report] if report.exists() else [],
            tracking_uri=tracking_uri,
            experiment=experiment,
        )

    def leaderboard(self) -> pl.DataFrame:
        return boards.build(self.results)

    def report(self, path: str | Path | None = None, *, all: bool = False) -> Path:
        """Write the defense evaluation report, one self-contained HTML file; returns its path.

        Of a run that is still going or was stopped it shows what there is, and says what is missing.

        Args:
            path: where to write it; `report.html` in the run if None.
            all: show the pictures of every victim, not of eight.
        """
        target = Path(path) if path is not None else self.path / "report.html"
        marker = RunDirectory(self.path).marker()
        page = reports.html(
            self.results,
            self.pictures,
            scenario=marker["scenario"],
            history=history(RunDirectory(self.path), self.results),
            command=marker["command"],
            versions=versions(),
            missing=reading.missing(RunDirectory(self.path)),
            every_victim=all,
        )
        write_text(target, page)
        return target

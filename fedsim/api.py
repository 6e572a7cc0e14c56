"""The Python API: run a scenario, look at what came of it."""

from __future__ import annotations

import random
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from fedsim import scenario as scenarios
from fedsim.errors import BadInput
from fedsim.files import write_text
from fedsim.reporting import comparison, entries, mlflow_log, paper, picture_grid, verification
from fedsim.reporting import leaderboard as boards
from fedsim.reporting import query as queries
from fedsim.reporting import report as reports
from fedsim.reporting.entries.entry import Entry
from fedsim.runs import losses, notes, reading, repeat
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
    salt: bool | str = False,
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
        salt: draw what clients train on, their masks and their noise from 128 secret bits besides the seed, so that no
            attack can draw them again; a string of 32 hexadecimal digits repeats a run that published its own. A
            salted run that goes on keeps its salt.
        ray_address: an existing Ray cluster; None starts one.

    Raises:
        fedsim.errors.BadInput: the scenario or the directory cannot be used; nothing was written.

    Examples:
        >>> import fedsim
        >>> run = fedsim.run("smoke", out=getfixture("tmp_path") / "smoke")
        >>> run.results["status"].unique().to_list()
        ['ok']
        >>> run.report().name
        'report.html'
    """
    loaded = scenario if isinstance(scenario, Scenario) else scenarios.load(scenario, set, here=ray_address is None)
    directory = Path(out) if out is not None else Path("runs") / loaded.name
    command = command or f"fedsim run {loaded.name}"
    execute(loaded, directory, command=command, fresh=fresh, salt=salt, ray_address=ray_address, view=view)
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


def compare(a: str | Path, b: str | Path, *, attacks: Sequence[str] = ()) -> comparison.Comparison:
    """Compare two runs victim by victim: what both attacked, on the same images, B less A.

    Args:
        a, b: run directories, of the same version of fedsim or of two; equal to compare two attacks of one run.
        attacks: none: each attack with itself; one: that one; two: the first of `a` with the second of `b`.

    Raises:
        fedsim.errors.BadInput: a directory is no run, or the two have no victim in common.
    """
    named: list[str | None] = [*attacks] or [None]
    sides = []
    for path, attack in ((Path(a), named[0]), (Path(b), named[-1])):
        run = Run(path)
        name = f"{path} {attack}" if attack else str(path)
        sides.append(comparison.Side(name, run.results, run.pictures, attack))
    return comparison.compare(*sides)


def verify(
    entry: str | Path,
    *,
    victims: int = 4,
    out: str | Path | None = None,
    set: Sequence[str] = (),
    allow_factory: bool = False,
    write: bool = False,
    view: View | None = None,
) -> verification.Finding:
    """Repeat some victims of an entry of the leaderboard through the whole pipeline, and compare.

    A seed is drawn among those that the entry lists, and of it so many clients; the first clients up to the last one
    drawn are attacked and compared, since a round's clients are attacked in this order.

    Args:
        entry: its JSON file.
        victims: how many clients to draw.
        out: the repetition's run directory; a temporary one if None.
        set: overrides, for files that lie elsewhere here.
        allow_factory: import the code that a model of the entry's author needs.
        write: append the outcome to the entry's file.

    Raises:
        fedsim.errors.BadInput: the file is no entry, or its scenario cannot be repeated here.
    """
    path = Path(entry)
    try:
        claimed = entries.read_one(path)
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None
    seed, clients = _drawn(claimed, victims)
    part = verification.part_of(claimed, seed=seed, clients=clients)
    try:
        again = repeat.repetition(part, set, allow_factory=allow_factory)
        with tempfile.TemporaryDirectory(prefix="fedsim-verify-") as temporary:
            directory = Path(out) if out is not None else Path(temporary) / again.scenario.name
            salt = claimed.source.salt or False
            execute(again.scenario, directory, command=f"fedsim verify {path.name}", salt=salt, view=view)
            rows = Run(directory).results
        finding = verification.compare(claimed, rows, together=again.together, formerly=again.formerly)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    if write:
        outcome = finding.verification(datetime.now(UTC).date().isoformat())
        entries.write(path.parent, claimed.model_copy(update={"verified": [*claimed.verified, outcome]}))
    return finding


def _drawn(claimed: Entry, victims: int) -> tuple[int, int]:
    """A seed, and how many of its first clients to attack: up to the last of those drawn at random."""
    values = claimed.victims.values
    seed = secrets.choice(sorted({value.seed for value in values}))
    clients = sorted({value.client for value in values if value.seed == seed})
    drawn = random.SystemRandom().sample(clients, min(victims, len(clients)))
    return seed, max(drawn) + 1


@dataclass(frozen=True)
class Run:
    """A run directory, finished or not.

    Raises:
        fedsim.errors.BadInput: the directory is no fedsim run.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))  # many write it as text
        RunDirectory(self.path).marker()

    @cached_property
    def results(self) -> pl.DataFrame:
        """One row per reconstructed image, as far as the run has come; the columns are those of `fedsim.table.SCHEMA`.

        Raises:
            fedsim.errors.BadInput: there are none yet, or their file is damaged or of another version.
        """
        return reading.results(RunDirectory(self.path))

    @property
    def notes(self) -> notes.Notes:
        """The tags and the note that somebody gave it: `fedsim note`."""
        return notes.read(self.path)

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
        marker = RunDirectory(self.path).marker("scenario", "command")
        report = self.path / "report.html"
        return mlflow_log.log(
            self.results,
            self.losses,
            scenario=marker["scenario"],
            command=marker["command"],
            pictures={"reconstructions.png": picture_grid.grid(self.results, self.pictures)},
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
        marker = RunDirectory(self.path).marker("scenario", "command")
        page = reports.html(
            self.results,
            self.pictures,
            scenario=marker["scenario"],
            history=history(RunDirectory(self.path), self.results),
            command=marker["command"],
            versions=versions(),
            missing=reading.missing(RunDirectory(self.path)),
            every_victim=all,
            noted=self.notes.line,
        )
        write_text(target, page)
        return target

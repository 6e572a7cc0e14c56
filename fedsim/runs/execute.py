"""Run a scenario: train the cells that are missing, attack what was seen, score, write the table."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedsim import data, table
from fedsim.answers import JobSpec
from fedsim.errors import reason_of
from fedsim.files import key_of, write_text
from fedsim.paths import look_beside
from fedsim.runs.attacking import fail, run_jobs
from fedsim.runs.cluster import check_address, check_capacity, cluster
from fedsim.runs.directory import RunDirectory, check_owner, claimed
from fedsim.runs.jobs import attempts, cell_key, cells_of, expected, jobs_of
from fedsim.runs.progress import Label, Score, Stage, Tracker, View
from fedsim.runs.results import assemble, score_key, write
from fedsim.runs.salt import settle
from fedsim.runs.simulation import simulate
from fedsim.scenario import Cell, Scenario, every_cell
from fedsim.scoring.identify import Candidates, candidates_of
from fedsim.scoring.job import DamagedTruth, score_job
from fedsim.version import __version__


def execute(
    scenario: Scenario,
    out: Path,
    *,
    command: str,
    fresh: bool = False,
    salt: bool | str = False,
    ray_address: str | None = None,
    view: View | None = None,
) -> RunDirectory:
    """Bring the run directory `out` to the state that the scenario describes; returns it.

    What is there already is kept and used: a finished run returns at once, a killed one goes on. Interrupted
    (KeyboardInterrupt), it writes the table of what is finished and lets the interrupt through.

    Raises:
        BadInput: `out` belongs to another scenario, is in use or has another salt, no Ray answers at the
            address, or its machines are too small for a client. Nothing was written.
    """
    if ray_address is not None:
        check_address(ray_address)
        with cluster(ray_address):
            check_capacity(cell.scenario for cell in every_cell(scenario))
    view = view or View()
    look_beside(scenario.folder)
    check_owner(out, scenario.name)
    salted_with = settle(out, salt, fresh=fresh)
    marker = {
        "name": scenario.name,
        "scenario": scenario.to_dict(),
        "folder": scenario.folder,
        "command": command,
        "version": __version__,
        "salted": salted_with is not None,
    }
    with claimed(out, marker, fresh=fresh) as directory:
        if salted_with is not None:
            write_text(directory.salt_file, salted_with + "\n")
        cells = cells_of(directory, scenario)
        distinct = {cell_key(cell) for cell in cells}
        tracker = Tracker(view, scenario.name, cells=len(distinct), jobs=_expected_jobs(cells))
        end: Stage = "stopped"
        try:
            _bring_up_to_date(directory, cells, ray_address, view, tracker)
            end = "finished"
        except KeyboardInterrupt:
            end = "interrupted"
            raise
        finally:
            try:
                tracker.end(end)
            finally:  # a page that cannot be written costs no table
                write(directory, assemble(directory, scenario))
    return directory


def _bring_up_to_date(
    directory: RunDirectory, cells: list[Cell], ray_address: str | None, view: View, tracker: Tracker
) -> None:
    wanted = {cell_key(cell): cell for cell in cells}
    wanted = {key: cell for key, cell in wanted.items() if not directory.cell(key).exists() or directory.lost(key)}
    works = {key: cell.work() for key, cell in wanted.items()}
    missing = _take_stock(directory, cells, tracker, again=works)
    if not works and not missing:
        return
    view.say("starting Ray")
    with cluster(ray_address) as address:
        check_capacity(cell.scenario for cell in cells)
        if works:
            tracker.train(len(works))
            deadlines = {key: 60 * cell.scenario.federation.deadline for key, cell in wanted.items()}
            simulate(directory, works, deadlines, address=address, on_done=tracker.trained)
            missing = _take_stock(directory, cells, tracker)
        if missing:
            tracker.attack(
                {key: _label(work) for key, work in missing.items()},
                {key: _iterations(work.job) for key, work in missing.items()},
            )

            def finished(job: JobSpec) -> None:
                tracker.done(job.key, _score(directory, missing[job.key]))

            jobs = [work.job for work in missing.values()]
            run_jobs(directory, jobs, on_done=finished, on_progress=tracker.under_way)


@dataclass(frozen=True)
class _Wanted:
    """An attack job and the cells that want it: those that equal one another up to a label or the metrics."""

    job: JobSpec
    cells: list[Cell]


def _take_stock(
    directory: RunDirectory, cells: list[Cell], tracker: Tracker, *, again: Collection[str] = ()
) -> dict[str, _Wanted]:
    """The jobs to run on the cells that are trained, longest first, so that no straggler is left for the end.

    What has answered without being scored is scored, and the tracker learns how far the run is.

    Args:
        again: cells that are about to be trained, some of them once more.
    """
    works: dict[str, _Wanted] = {}
    trained = [cell for cell in cells if directory.cell(cell_key(cell)).exists()]
    for cell in trained:
        for job in jobs_of(directory, cell):
            works.setdefault(job.key, _Wanted(job, [])).cells.append(cell)
    to_come = _expected_jobs([cell for cell in cells if cell not in trained])

    def missing() -> dict[str, _Wanted]:
        found = {key: work for key, work in works.items() if not (directory.job(key) / "job.json").exists()}
        done = (len(works) - len(found), len(works) + to_come)
        tracker.known(cells=len({cell_key(cell) for cell in trained} - {*again}), jobs=done)
        return found

    for key in works.keys() - missing().keys():
        _score(directory, works[key])
        tracker.tick()
    left = missing()  # some more where an answer could not be scored
    return dict(sorted(left.items(), key=lambda item: -_iterations(item[1].job)))


def _expected_jobs(cells: list[Cell]) -> int:
    """The attack jobs of cells that are not trained yet, if every victim is observed."""
    distinct: dict[str, int] = {}
    for cell in cells:
        chunks = expected(cell)
        for attempt in attempts(cell):
            distinct[key_of([cell_key(cell), *attempt, cell.scenario.engine.model_dump()])] = chunks
    return sum(distinct.values())


def _label(work: _Wanted) -> Label:
    cell = work.cells[0]
    model = cell.model_spec()
    return Label(work.job.attack["name"], model.get("name") or model["factory"], cell.defense_label)


def _iterations(job: JobSpec) -> float:
    """How much work a job is beside others: its iterations at most."""
    return float(job.attack.get("iterations", 1))


def _score(directory: RunDirectory, work: _Wanted) -> Score:
    """Score a job, for each set of metrics that is wanted, unless that was done before.

    An answer that cannot be scored (a file that was cut off, a shape that nobody foresaw) costs the rows of its job: it
    is taken away, so that the job is tried again. What the system refuses (a full disk) is no fault of the answer, and
    where it is the truth that is damaged the answer is kept.
    """
    job = work.job
    if not (directory.job(job.key) / "job.json").exists():
        return Score(None, "failed")
    others = candidates_of(data.load(work.cells[0].work().data))  # of one federation: a fault of it is no answer's
    try:
        for cell in work.cells:
            rows = _rows(directory, job, cell, others)
    except OSError as fault:
        if not isinstance(fault, FileNotFoundError):
            raise
        return _taken_away(directory, job, fault)
    except DamagedTruth as fault:
        fail(directory, job, str(fault))
        return Score(None, "failed")
    except Exception as fault:
        return _taken_away(directory, job, fault)
    median = rows["psnr"].median()
    statuses = set(rows["status"])
    status = next((known for known in ("ok", "not_applicable") if known in statuses), "failed")
    return Score(float(median) if isinstance(median, int | float) else None, status)


def _rows(directory: RunDirectory, job: JobSpec, cell: Cell, others: Candidates) -> pl.DataFrame:
    target = directory.score(score_key(job, cell.scenario))
    for again in (False, True):
        if not target.exists():
            own, metrics = directory.cell(job.cell), cell.scenario.metrics
            score_job(own, directory.job(job.key), target, key=target.name, metrics=metrics, candidates=others)
        try:
            return table.read(target / "rows.parquet", ["psnr", "status"])
        except (pl.exceptions.PolarsError, OSError):  # damaged since: the answer is still there
            if again:
                raise
            shutil.rmtree(target, ignore_errors=True)
    raise AssertionError


def _taken_away(directory: RunDirectory, job: JobSpec, fault: Exception) -> Score:
    shutil.rmtree(directory.job(job.key))
    fail(directory, job, f"its answer cannot be scored: {reason_of(fault)}")
    return Score(None, "failed")

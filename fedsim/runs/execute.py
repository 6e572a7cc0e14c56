"""Run a scenario: train the cells that are missing, attack what was seen, score, write the table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedsim import table
from fedsim.answers import JobSpec
from fedsim.files import key_of, write_text
from fedsim.paths import look_beside
from fedsim.runs.attacking import run_jobs
from fedsim.runs.cluster import check_address, check_capacity, cluster
from fedsim.runs.directory import RunDirectory, check_owner, claimed
from fedsim.runs.jobs import attempts, cell_key, cells_of, expected, jobs_of
from fedsim.runs.progress import Label, Score, Stage, Tracker, View
from fedsim.runs.results import assemble, score_key, write
from fedsim.runs.salt import settle
from fedsim.runs.simulation import simulate
from fedsim.scenario import Cell, Scenario, every_cell
from fedsim.scoring.job import score_job
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
            tracker.end(end)
            write(directory, assemble(directory, scenario))
    return directory


def _bring_up_to_date(
    directory: RunDirectory, cells: list[Cell], ray_address: str | None, view: View, tracker: Tracker
) -> None:
    works = {cell_key(cell): cell.work() for cell in cells if not directory.cell(cell_key(cell)).exists()}
    missing = _take_stock(directory, cells, tracker)
    if not works and not missing:
        return
    view.say("starting Ray")
    with cluster(ray_address) as address:
        check_capacity(cell.scenario for cell in cells)
        if works:
            tracker.train(len(works))
            simulate(directory, works, address=address, on_done=tracker.trained)
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


def _take_stock(directory: RunDirectory, cells: list[Cell], tracker: Tracker) -> dict[str, _Wanted]:
    """The jobs to run on the cells that are trained, longest first, so that no straggler is left for the end.

    What has answered without being scored is scored, and the tracker learns how far the run is.
    """
    works: dict[str, _Wanted] = {}
    trained = [cell for cell in cells if directory.cell(cell_key(cell)).exists()]
    for cell in trained:
        for job in jobs_of(directory, cell):
            works.setdefault(job.key, _Wanted(job, [])).cells.append(cell)
    missing = {key: work for key, work in works.items() if not (directory.job(key) / "job.json").exists()}
    to_come = _expected_jobs([cell for cell in cells if cell not in trained])
    tracker.known(
        cells=len({cell_key(cell) for cell in trained}), jobs=(len(works) - len(missing), len(works) + to_come)
    )
    for key, work in works.items():
        if key not in missing:
            _score(directory, work)
            tracker.tick()
    return dict(sorted(missing.items(), key=lambda item: -_iterations(item[1].job)))


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
    """Score a job, for each set of metrics that is wanted, unless that was done before."""
    job = work.job
    if not (directory.job(job.key) / "job.json").exists():
        return Score(None, "failed")
    for cell in work.cells:
        target = directory.score(score_key(job, cell.scenario))
        if not target.exists():
            metrics = cell.scenario.metrics
            score_job(directory.cell(job.cell), directory.job(job.key), target, key=target.name, metrics=metrics)
    rows = table.read(target / "rows.parquet", ["psnr", "status"])
    median = rows["psnr"].median()
    statuses = set(rows["status"])
    status = next((known for known in ("ok", "not_applicable") if known in statuses), "failed")
    return Score(float(median) if isinstance(median, int | float) else None, status)

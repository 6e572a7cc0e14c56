"""Run a scenario: train the cells that are missing, attack what was seen, score, write the table."""

from __future__ import annotations

from pathlib import Path

from fedsim.runs.attacking import run_jobs
from fedsim.runs.cluster import check_address, cluster
from fedsim.runs.directory import RunDirectory, claimed
from fedsim.runs.jobs import AttackJob, cell_key, jobs_of
from fedsim.runs.progress import View
from fedsim.runs.results import assemble, score_key, write
from fedsim.runs.simulation import simulate
from fedsim.scenario import Scenario
from fedsim.scoring.job import score_job
from fedsim.version import __version__


def execute(
    scenario: Scenario,
    out: Path,
    *,
    command: str,
    fresh: bool = False,
    ray_address: str | None = None,
    view: View | None = None,
) -> RunDirectory:
    """Bring the run directory `out` to the state that the scenario describes; returns it.

    What is there already is kept and used: a finished run returns at once, a killed one goes on. Interrupted
    (KeyboardInterrupt), it writes the table of what is finished and lets the interrupt through.

    Raises:
        BadInput: `out` belongs to another scenario or is in use, or no Ray answers at the address. Nothing was written.
    """
    if ray_address is not None:
        check_address(ray_address)
    view = view or View()
    marker = {"name": scenario.name, "scenario": scenario.to_dict(), "command": command, "version": __version__}
    with claimed(out, marker, fresh=fresh) as directory:
        try:
            _bring_up_to_date(directory, scenario, ray_address, view)
        finally:
            view.close()
            write(directory, assemble(directory, scenario))
    return directory


def _bring_up_to_date(directory: RunDirectory, scenario: Scenario, ray_address: str | None, view: View) -> None:
    cells = {cell_key(cell): cell for cell in scenario.cells()}
    works = {key: cell.work() for key, cell in cells.items() if not directory.cell(key).exists()}
    if not works:
        for cell in cells.values():
            _score_finished(directory, list(jobs_of(directory, cell)), cell.scenario)
        if not any(_missing(directory, list(jobs_of(directory, cell))) for cell in cells.values()):
            return
    view.say("starting Ray")
    with cluster(ray_address) as address:
        if works:
            with view.stage("training", len(works)) as stage:
                simulate(directory, works, address=address, on_done=stage.done)
        trained = [cell for key, cell in cells.items() if directory.cell(key).exists()]
        scenario_of = {job.key: (job, cell.scenario) for cell in trained for job in jobs_of(directory, cell)}
        for job, own in scenario_of.values():
            _score_finished(directory, [job], own)
        missing = _missing(directory, [job for job, _ in scenario_of.values()])
        if missing:
            with view.stage("attacking", len(missing)) as stage:

                def finished(job: AttackJob) -> None:
                    _score_finished(directory, [job], scenario_of[job.key][1])
                    stage.advance(job.spec["attack"]["name"])

                run_jobs(directory, missing, on_done=finished, on_progress=stage.fractions)


def _missing(directory: RunDirectory, jobs: list[AttackJob]) -> list[AttackJob]:
    """The jobs to run, longest first, so that no straggler is left for the end."""
    missing = [job for job in jobs if not (directory.job(job.key) / "job.json").exists()]
    return sorted(missing, key=lambda job: -job.spec["attack"].get("iterations", 0))


def _score_finished(directory: RunDirectory, jobs: list[AttackJob], scenario: Scenario) -> None:
    """Score the jobs that have answered and have no score yet."""
    for job in jobs:
        target = directory.score(score_key(job, scenario))
        if (directory.job(job.key) / "job.json").exists() and not target.exists():
            score_job(
                directory.cell(job.cell), directory.job(job.key), target, key=target.name, metrics=scenario.metrics
            )

"""Run the pending attack jobs as Ray tasks: read what each is given, send it, write what comes back.

Only this process knows the run directory. It reads a job's observations when its turn comes and no sooner, so that its
memory does not grow with the number of jobs.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedsim.answers import JobSpec
from fedsim.errors import on_one_line, reason_of
from fedsim.files import write_json
from fedsim.runs.attack import prepare, write
from fedsim.runs.directory import RunDirectory
from fedsim.runs.parcel import Parcel
from fedsim.runs.progress import Signal
from fedsim.runs.worker import Board, compute

POLL_SECONDS = 0.25

AHEAD = 2
"""How many jobs are sent beyond those that have a CPU, so that none waits for its observations to be read."""


def run_jobs(
    directory: RunDirectory,
    jobs: Sequence[JobSpec],
    *,
    on_done: Callable[[JobSpec], None],
    on_progress: Callable[[dict[str, Signal]], None],
) -> None:
    """Run jobs on the Ray that is attached; one CPU each, or the GPU where the engine uses one.

    `on_done` is called with each finished job (whether it succeeded or left an error file), `on_progress` with
    what each job under way says of itself, by key.
    """
    import ray

    for job in jobs:
        error_file(directory, job).unlink(missing_ok=True)
    submit = _submitter()
    # ends with the last handle to it: killed while it is asked, it would have Ray say so
    board = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board).remote()
    asked = board.said.remote()
    most = math.ceil(ray.cluster_resources().get("CPU", 1)) + AHEAD
    waiting, pending, told = deque(jobs), dict[Any, JobSpec](), 0.0
    try:
        while waiting or pending:
            while waiting and len(pending) < most:
                job = waiting.popleft()
                try:
                    parcel = Parcel.of(prepare(directory.cell(job.cell), job))
                except Exception as fault:  # what was recorded is damaged: it costs the rows of this job
                    fail(directory, job, reason_of(fault))
                    on_done(job)
                    continue
                pending[submit(job, board, parcel)] = job
                del parcel  # Ray has it
            for reference in ray.wait(list(pending), timeout=POLL_SECONDS)[0] if pending else ():
                job = pending.pop(reference)
                try:
                    answer = ray.get(reference)
                except ray.exceptions.RayError as fault:  # the worker died: out of memory, or killed
                    answer = f"the job's process died: {on_one_line(fault)}"
                board.forget.remote(job.key)
                if isinstance(answer, str):
                    fail(directory, job, answer)
                else:
                    _write(directory, job, answer)
                on_done(job)
            if time.monotonic() - told >= POLL_SECONDS and ray.wait([asked], timeout=0)[0]:
                told, said, asked = time.monotonic(), ray.get(asked), board.said.remote()
                on_progress({job.key: said[job.key] for job in pending.values() if job.key in said})
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)


def error_file(directory: RunDirectory, job: JobSpec) -> Path:
    return directory.path / "jobs" / f"{job.key}.error.json"


def _submitter() -> Callable[[JobSpec, Any, Parcel], Any]:
    """What sends a job to Ray and returns the reference to its answer."""
    import ray

    task = ray.remote(max_retries=1)(compute)
    some = ray.cluster_resources().get("GPU", 0) > 0  # of the cluster, whatever this machine has

    def submit(job: JobSpec, board: Any, parcel: Parcel) -> Any:
        on_gpu = job.engine.device == "cuda" or (some and job.engine.device == "auto")
        return task.options(num_cpus=1, num_gpus=job.engine.gpus if on_gpu else 0).remote(job.key, board, parcel)

    return submit


def _write(directory: RunDirectory, job: JobSpec, answer: Parcel) -> None:
    """Write the answer; one that cannot be written costs the rows of this job, a full disk the whole run."""
    try:
        write(directory.job(job.key), job, answer.open())
    except OSError:
        raise
    except Exception as fault:
        fail(directory, job, f"its answer cannot be written: {reason_of(fault)}")


def fail(directory: RunDirectory, job: JobSpec, reason: str) -> None:
    """Leave why a job has no answer; it is tried again when the run goes on."""
    write_json(error_file(directory, job), {"reason": reason})

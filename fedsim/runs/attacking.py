"""Run the pending attack jobs as Ray tasks, and score each as it comes back."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fedsim.files import read_json, write_json, write_text
from fedsim.runs.directory import RunDirectory
from fedsim.runs.jobs import AttackJob
from fedsim.runs.progress import Signal

POLL_SECONDS = 0.25
REPORT_SECONDS = 0.5


def run_jobs(
    directory: RunDirectory,
    jobs: Sequence[AttackJob],
    *,
    on_done: Callable[[AttackJob], None],
    on_progress: Callable[[dict[str, Signal]], None],
) -> None:
    """Run jobs on the Ray that is attached; one CPU each, or the GPU where the engine uses one.

    `on_done` is called with each finished job (whether it succeeded or left an error file), `on_progress` with
    what each job under way says of itself, by key.
    """
    import ray
    import torch

    @ray.remote(max_retries=1)
    def task(cell: str, target: str, progress: str, error: str, spec: str) -> None:
        _work(Path(cell), Path(target), Path(progress), Path(error), json.loads(spec))

    cuda = torch.cuda.is_available()
    pending = {}
    for job in jobs:
        on_gpu = cuda and job.spec["engine"]["device"] != "cpu"
        submit = task.options(num_cpus=1, num_gpus=1 if on_gpu else 0)
        error_file(directory, job).unlink(missing_ok=True)
        directory.progress(job.key).unlink(missing_ok=True)  # of a run that was killed
        paths = (directory.cell(job.cell), directory.job(job.key), directory.progress(job.key))
        reference = submit.remote(
            *map(str, map(Path.absolute, (*paths, error_file(directory, job)))), json.dumps(job.spec)
        )
        pending[reference] = job
    try:
        while pending:
            done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=POLL_SECONDS)
            for reference in done:
                job = pending.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as fault:  # the worker died: out of memory, or killed
                    write_json(error_file(directory, job), {"reason": f"the job's process died: {_one_line(fault)}"})
                directory.progress(job.key).unlink(missing_ok=True)
                on_done(job)
            signals = {job.key: _signal(directory.progress(job.key)) for job in pending.values()}
            on_progress({key: signal for key, signal in signals.items() if signal is not None})
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)


def error_file(directory: RunDirectory, job: AttackJob) -> Path:
    return directory.path / "jobs" / f"{job.key}.error.json"


def _work(cell: Path, target: Path, progress: Path, error: Path, spec: dict) -> None:
    import torch

    from fedsim.runs.attack import attack

    torch.set_num_threads(1)
    last = 0.0

    def report(done: int, most: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_SECONDS:
            last = now
            write_text(progress, json.dumps({"fraction": done / max(most, 1), "loss": loss}))

    write_text(progress, json.dumps({"fraction": 0.0, "loss": None}))
    try:
        attack(cell, target, spec, report)
    except Exception as fault:  # one job's fault costs its own rows only
        write_json(error, {"reason": f"{type(fault).__name__}: {_one_line(fault)}"})


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _signal(path: Path) -> Signal | None:
    """What a job says of itself; None before it has begun."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    loss = content["loss"]
    return Signal(float(content["fraction"]), loss if loss is not None and math.isfinite(loss) else None)

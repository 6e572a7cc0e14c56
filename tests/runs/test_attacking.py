"""Attack jobs on a real Ray: what its processes are given, and that one job's fault costs its own rows only."""

from __future__ import annotations

import os
import re

import pytest
import recorded_cell
import torch

from fedsim.federation.plan import Plan
from fedsim.files import read_json, read_tensors
from fedsim.runs import attacking
from fedsim.runs.attack import attack
from fedsim.runs.attacking import AHEAD, error_file, run_jobs
from fedsim.runs.cluster import cluster
from fedsim.runs.directory import RunDirectory

MODULE = '''
import gc, os, sys
from pathlib import Path
from torch import nn

RUN = "the-run" + "-directory"  # in two parts: this file's own text is no find


class Model(nn.Module):
    def __init__(self, input_shape, classes, does):
        super().__init__()
        self.head, self.does = nn.Linear(784, classes), does

    def forward(self, x):
        if under_attack():
            globals()[self.does]()
        return self.head(x.flatten(1))


def build(input_shape, classes, does):
    return Model(input_shape, classes, does)


def frames():
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def under_attack():
    return any("/attacks/" in frame.f_code.co_filename for frame in frames())


def look():
    found = [str(name) for frame in frames() for name, value in frame.f_locals.items() if RUN in repr(value)]
    places = {"environment": os.environ, "arguments": sys.argv, "directory": os.getcwd(), "modules": sys.path}
    found += [place for place, value in places.items() if RUN in repr(value)]
    for value in gc.get_objects():
        inside = value.values() if type(value) is dict else value if type(value) in (list, tuple) else ()
        found += [type(value).__name__ for one in list(inside) if type(one) is str and RUN in one and one is not RUN or
                  isinstance(one, Path) and RUN in str(one)]
    raise ValueError(f"looked through {len(list(frames()))} frames and found {sorted(set(found))}")


def read():
    open(Path.cwd() / "anything")


def die():
    os._exit(3)
'''


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Jobs of each kind, done; with what was said of them, and how many were prepared at once."""
    own = tmp_path_factory.mktemp("own")
    (own / "spying_model.py").write_text(MODULE)
    directory = RunDirectory(tmp_path_factory.mktemp("runs") / "the-run-directory")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(own)
        jobs, work = {}, recorded_cell.spec
        for does in ("look", "read", "die"):
            model = {"factory": "spying_model:build", "does": does}
            recorded_cell.record(directory.cell(does), Plan(recorded_cell.work(model)))
            jobs[does] = work({"name": "inverting_gradients", "iterations": 5}, cell=does)
        recorded_cell.record(directory.cell("good"), Plan(recorded_cell.work()))
        jobs["long"] = work({"name": "dropout_inversion", "iterations": 300}, cell="good")
        for number in range(12):
            jobs[f"null {number}"] = work({"name": "null_mean"}, (number % 2,), cell="good", seed=number)
        recorded_cell.record(directory.cell("damaged"), Plan(recorded_cell.work()))
        (directory.cell("damaged") / "observations" / "round_1_client_1.safetensors").write_bytes(b"no tensors")
        jobs["damaged"] = work({"name": "null_mean"}, cell="damaged")
        jobs["unwritable"] = work({"name": "null_mean"}, cell="good", seed=99)
        prepared, done, signals, most = set(), set(), [], 0
        prepare = attacking.prepare

        def counted(cell, spec):
            nonlocal most
            prepared.add(spec.key)
            most = max(most, len(prepared - done))
            return prepare(cell, spec)

        write = attacking.write

        def writing(to, job, answer):
            if job is jobs["unwritable"]:
                raise RuntimeError("tensors of no format")
            write(to, job, answer)

        patch.setattr(attacking, "prepare", counted)
        patch.setattr(attacking, "write", writing)
        with cluster():
            run_jobs(
                directory,
                list(jobs.values()),
                on_done=lambda job: done.add(job.key),
                on_progress=lambda said: signals.extend(said.items()),
            )
    assert done == {job.key for job in jobs.values()}
    return directory, jobs, signals, most


def _error(ran, name: str) -> str:
    directory, jobs, *_ = ran
    assert not directory.job(jobs[name].key).exists()
    return read_json(error_file(directory, jobs[name]))["reason"]


def _reason(ran, name: str) -> str:
    """Why the clients of a job whose model raised an error have no reconstruction."""
    directory, jobs, *_ = ran
    clients = read_json(directory.job(jobs[name].key) / "job.json")["clients"]
    [reason] = {client["reason"] for client in clients.values()}
    return reason


def test_a_job_is_answered_as_it_is_in_one_process(ran, tmp_path):
    directory, jobs, *_ = ran
    job = jobs["long"]
    attack(directory.cell("good"), tmp_path / "answer", job)
    paths = (directory.job(job.key), tmp_path / "answer")
    answers = [read_tensors(path / "reconstructions.safetensors") for path in paths]
    assert answers[0].keys() == answers[1].keys()
    assert all(torch.equal(value, answers[1][name]) for name, value in answers[0].items())
    assert not error_file(directory, job).exists()


def test_no_process_of_ray_is_given_a_path_into_the_run(ran):
    assert re.search(r"looked through \d\d+ frames and found \[\]$", _reason(ran, "look"))


def test_a_model_that_opens_a_file_during_the_attack_has_a_row_that_says_so(ran):
    assert "an attack opened /" in _reason(ran, "read")


def test_a_process_that_dies_costs_its_own_rows_only(ran):
    assert "process died" in _error(ran, "die")


def test_damaged_observations_cost_their_own_rows_only(ran):
    assert "not a safetensors file" in _error(ran, "damaged")


def test_an_answer_that_cannot_be_written_costs_its_own_rows_only(ran):
    assert _error(ran, "unwritable") == "its answer cannot be written: RuntimeError: tensors of no format"


def test_no_more_jobs_are_read_than_are_computed_and_a_few(ran):
    assert ran[3] <= os.cpu_count() + AHEAD < len(ran[1])


def test_jobs_under_way_say_how_far_they_are(ran):
    _, jobs, signals, _ = ran
    said = [signal for key, signal in signals if key == jobs["long"].key]
    assert said
    assert all(0 <= signal.fraction <= 1 for signal in said)


def test_nothing_but_answers_and_errors_is_left(ran):
    directory, jobs, *_ = ran
    left = {path.name for path in (directory.path / "jobs").iterdir()}
    failed = {"die", "damaged", "unwritable"}
    assert left == {f"{job.key}.error.json" if name in failed else job.key for name, job in jobs.items()}

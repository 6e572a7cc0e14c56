"""What an attack can reach while it runs, and what it cannot: cheating attacks of each kind."""

from __future__ import annotations

import glob
import os
import pkgutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import recorded_cell
import safetensors.torch
import torch

from attacks import Attack, Reconstruction, ThreatModel
from attacks.base import _registry
from fedsim import answers, observations, truth
from fedsim.federation.plan import Plan
from fedsim.files import read_json, read_tensors, write_json
from fedsim.runs.attack import prepare, respond, write
from fedsim.runs.guard import guarded, lifted
from fedsim.runs.parcel import Parcel


@pytest.fixture(scope="module")
def cell(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "cells" / "cell"
    recorded_cell.record(path, Plan(recorded_cell.work()))
    torch.save({"secret": torch.ones(2)}, path / "truth" / "secret.pt")
    np.save(path / "truth" / "secret.npy", np.ones(2))
    return path


@pytest.fixture
def answered_by(cell, monkeypatch):
    """Run an attack that does as it is told, on the recorded cell; its reconstruction is what it got hold of."""

    def answered(act, report=None):
        class Cheat(Attack):
            def reconstruct(self, observation, threat_model, model, *, seed):
                got = act()
                images = got if isinstance(got, torch.Tensor) else torch.zeros(1, *observation.input_shape)
                return Reconstruction(images=images, loss=0.0, details={"got": str(got)})

        monkeypatch.setitem(_registry._members, "cheat", Cheat)
        return respond(prepare(cell, recorded_cell.spec({"name": "cheat"}, clients=(0,))), report)

    return answered


def _envelope(cell: Path) -> Path:
    return cell / "truth" / "round_1_client_0.safetensors"


def _in_a_thread(act):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result()


OPENS = {
    "open": lambda cell: _envelope(cell).open("rb").read(),
    "os.open": lambda cell: os.read(os.open(_envelope(cell), os.O_RDONLY), 10),
    "Path.read_bytes": lambda cell: _envelope(cell).read_bytes(),
    "torch.load": lambda cell: torch.load(cell / "truth" / "secret.pt"),
    "torch.load of a map": lambda cell: torch.load(cell / "truth" / "secret.pt", mmap=True),
    "np.load": lambda cell: np.load(cell / "truth" / "secret.npy"),
    "np.fromfile": lambda cell: np.fromfile(_envelope(cell)),
    "open_envelope": lambda cell: truth.open_envelope(cell, 1, 0),
    "observations.load": lambda cell: observations.load(cell, 1, 0, ThreatModel(noise="known")),
    "read_tensors": lambda cell: read_tensors(_envelope(cell)),
    "read_json": lambda cell: read_json(cell / "observations" / "round_1_client_0.json"),
    "by way of /proc": lambda cell: Path(f"/proc/self/root{_envelope(cell)}").read_bytes(),
    "in a thread": lambda cell: _in_a_thread(_envelope(cell).read_bytes),
    "the data set": lambda cell: pkgutil.get_data("fedsim", "assets/mnist_5k.npz"),
}

LISTS = {
    "glob": lambda cell: glob.glob(f"{cell.parents[2]}/**/truth/*", recursive=True),
    "rglob": lambda cell: list(cell.parents[2].rglob("truth")),
    "os.walk": lambda cell: list(os.walk(cell, onerror=_raise)),
    "os.listdir": lambda cell: os.listdir(cell),
    "the working directory": lambda cell: os.listdir(),
}

STARTS = {
    "subprocess": lambda cell: subprocess.run(["cat", str(_envelope(cell))], capture_output=True).stdout,
    "os.system": lambda cell: os.system(f"cat {_envelope(cell)}"),
    "os.posix_spawn": lambda cell: os.posix_spawn("/bin/cat", ["cat", str(_envelope(cell))], {}),
}


def _raise(fault):
    raise fault


@pytest.mark.parametrize("how", OPENS)
def test_an_attack_that_opens_a_file_is_stopped_and_told_which(cell, answered_by, how):
    with pytest.raises(RuntimeError, match=r"an attack opened \S+; it may use only what it is given"):
        answered_by(lambda: OPENS[how](cell))
    OPENS[how](cell)  # and nobody else is


@pytest.mark.parametrize("how", LISTS)
def test_an_attack_that_looks_around_is_stopped(cell, answered_by, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match=r"an attack opened \S+; it may use only what it is given"):
        answered_by(lambda: LISTS[how](cell))
    LISTS[how](cell)


@pytest.mark.parametrize("how", STARTS)
def test_an_attack_that_starts_a_process_is_stopped(cell, answered_by, how):
    with pytest.raises(RuntimeError, match=r"an attack started a process \(.*cat.*; it may use only what it is given"):
        answered_by(lambda: STARTS[how](cell))


def test_a_native_reader_that_knows_the_path_is_not_stopped(cell, answered_by):
    """What the guard does not do, so that nobody relies on it: the worker's only protection here is to know no path."""
    answer = answered_by(lambda: safetensors.torch.load_file(_envelope(cell))["images"])
    assert torch.equal(answer.reconstructions["0.images"], truth.open_envelope(cell, 1, 0).images.float())


def test_what_is_sent_to_an_attack_names_no_path_and_holds_no_more_than_is_granted(cell):
    parcel = Parcel.of(prepare(cell, recorded_cell.spec({"name": "null_random"})))
    held = b"".join([parcel.rest, *(array.tobytes() for array in parcel.arrays)])
    assert b"images" not in held
    for part in {cell.name, *cell.parts[1:]} - {"cell"}:
        assert part.encode() not in held, part
    task = parcel.open()
    assert all(one.noise is None for one in task.observations)
    assert task.observations[0].state is task.observations[1].state  # sent once, not once a client
    once, twice = (
        sum(array.nbytes for array in Parcel.of(prepare(cell, recorded_cell.spec({"name": "null_mean"}, who))).arrays)
        for who in ((0,), (0, 1))
    )
    assert twice < 2 * once


def test_an_attack_in_parts_is_the_same_attack(cell, tmp_path):
    spec = recorded_cell.spec({"name": "dropout_inversion", "iterations": 20})
    sent = Parcel.of(prepare(cell, spec)).open()
    answer = Parcel.of(respond(sent)).open()
    write(tmp_path / "sent", spec, answer)
    plain = respond(prepare(cell, spec))
    written = read_tensors(tmp_path / "sent" / "reconstructions.safetensors")
    assert written.keys() == plain.reconstructions.keys()
    assert all(torch.equal(written[name], value) for name, value in plain.reconstructions.items())
    asked, account = answers.read(tmp_path / "sent")
    assert asked == spec
    assert account.outcomes == plain.account.outcomes


def test_an_attack_may_write_to_what_it_is_given(cell):
    parcel = Parcel.of(prepare(cell, recorded_cell.spec({"name": "null_mean"})))
    for array in parcel.arrays:
        array.flags.writeable = False  # as Ray's shared memory is
    before = [array.copy() for array in parcel.arrays]
    for tensor in parcel.open().observations[0].state.values():
        tensor.fill_(7)
    assert all(np.array_equal(left, right) for left, right in zip(parcel.arrays, before, strict=True))


def test_what_an_attack_calls_back_is_not_guarded(cell, answered_by, tmp_path):
    with guarded():
        with lifted():
            write_json(tmp_path / "progress.json", {})
        with pytest.raises(RuntimeError):
            write_json(tmp_path / "after.json", {})
    assert os.listdir(tmp_path) == ["progress.json"]


def test_threads_that_ran_before_go_on_with_their_work(tmp_path):
    begin, ended = threading.Event(), threading.Event()

    def other():
        begin.wait()
        (tmp_path / "log").write_text("line")
        ended.set()

    thread = threading.Thread(target=other)
    thread.start()
    with guarded():
        begin.set()
        ended.wait(5)
    thread.join()
    assert (tmp_path / "log").exists()


def test_code_and_the_system_are_everybodys(tmp_path, monkeypatch):
    (tmp_path / "late_module.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    with guarded():
        import late_module  # a module of one's own, and its bytecode

        assert late_module.VALUE == 3
        assert "Name" in Path("/proc/self/status").read_text()
        assert Path("/dev/null").read_bytes() == b""
        assert Path(os.__file__).read_text()


def test_the_compiler_works_under_the_guard(tmp_path, monkeypatch):
    """From nothing: no program is in its cache, so that it calls the C++ compiler and writes there."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    x = torch.linspace(0, 1, 64)
    with guarded():
        compiled = torch.compile(lambda x: (x.sin() * 2).cos(), fullgraph=True)(x)
        with pytest.raises(RuntimeError, match="an attack opened"):
            (tmp_path / "cache").read_bytes()
    assert torch.allclose(compiled, (x.sin() * 2).cos())
    assert any((tmp_path / "cache").rglob("*.so"))

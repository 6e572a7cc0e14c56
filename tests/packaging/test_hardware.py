"""What a result says it was computed on."""

import os
import platform
from contextlib import nullcontext

import torch

from fedsim.hardware import describe, environment, exact, of_training, processor
from fedsim.random import seeded_torch


def test_a_processor_is_named_with_its_cores():
    said = describe(torch.device("cpu"))
    assert said.startswith(processor())
    assert f", {os.cpu_count()} core" in said


def test_the_name_comes_from_the_system_on_one_line(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A  Fast\tOne @ 2 GHz\nprocessor\t: 1\nmodel name\t: Another\n")
    assert processor(info) == "A Fast One @ 2 GHz"


def test_a_system_that_names_no_processor_still_has_an_answer(tmp_path):
    empty = tmp_path / "cpuinfo"
    empty.write_text("processor : 0\nmodel name :\n")
    assert processor(empty) == processor(tmp_path / "missing") != ""


def test_an_environment_names_what_can_change_the_digits():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        said = environment()
    finally:
        torch.set_num_threads(before)
    assert set(said) == {"python", "torch", "flwr", "numpy", "opacus", "processor", "vector", "threads"}
    assert (said["python"], said["torch"]) == (platform.python_version(), str(torch.__version__))
    assert (said["processor"], said["threads"]) == (processor(), 1)
    assert f"CPU capability usage: {said['vector']}" in torch.__config__.show()


def test_float32_is_float32_on_a_gpu_too():
    flags = [
        (torch.backends.cuda.matmul, "allow_tf32", True),
        (torch.backends.cudnn, "allow_tf32", True),
        (torch.backends.cudnn, "benchmark", True),
        (torch.backends.cudnn, "deterministic", False),
    ]
    before = [getattr(where, name) for where, name, _ in flags]
    try:
        for where, name, loose in flags:
            setattr(where, name, loose)
        exact()
        assert [getattr(where, name) for where, name, _ in flags] == [not loose for _, _, loose in flags]
    finally:
        for (where, name, _), value in zip(flags, before, strict=True):
            setattr(where, name, value)


def test_what_is_trained_beside_clients_is_trained_where_they_are(monkeypatch):
    for there, gpus, found in ((False, 1, "cpu"), (True, 0, "cpu"), (True, 0.5, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert of_training(gpus).type == found


def test_seeding_for_a_block_leaves_the_generators_as_they_were(monkeypatch):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with seeded_torch(3):
        first = torch.rand(1)
    assert torch.rand(1) == expected
    with seeded_torch(3):
        assert torch.rand(1) == first
    kept = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: kept.extend(devices) or nullcontext())
    with seeded_torch(3):
        assert kept == [0, 1]

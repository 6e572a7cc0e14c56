"""What a result says it was computed on."""

import os
import platform

import torch

from fedsim.hardware import describe, environment, processor


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

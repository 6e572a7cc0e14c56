"""A client that no machine of a Ray cluster can hold is refused: Ray would wait for a larger one for ever."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fedsim.errors import BadInput, FedsimError
from fedsim.runs.attacking import _submitter
from fedsim.runs.cluster import check_capacity, cluster
from fedsim.scenario import parse


def asking(cpus, gpus, engine=None):
    federation = {"clients": 2, "resources": {"cpus": cpus, "gpus": gpus}}
    return parse({"name": "mine", "attacks": [], "federation": federation, "engine": engine or {}}, rehearsed=False)


@pytest.fixture
def machines(monkeypatch):
    """Two machines that are alive, and a large one that is not."""
    nodes = [(True, {"CPU": 8.0}), (True, {"CPU": 2.0, "GPU": 1.0}), (False, {"CPU": 99.0, "GPU": 9.0})]
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": alive, "Resources": has} for alive, has in nodes])


@pytest.mark.parametrize(("cpus", "gpus"), [(1, 0), (8, 0), (2, 1.0), (1, 0.25)])
def test_what_fits_one_machine_is_taken(machines, cpus, gpus):
    check_capacity([asking(cpus, gpus)])


@pytest.mark.parametrize(("cpus", "gpus"), [(9, 0), (3, 1.0), (1, 2.0)])
def test_what_fits_none_is_one_line(machines, cpus, gpus):
    said = rf"federation.resources: a client takes {cpus} CPUs and {gpus:g} GPUs, .* \(at most 8 CPUs and 1 GPUs\)$"
    with pytest.raises(BadInput, match=said):
        check_capacity([asking(1, 0), asking(cpus, gpus)])


def test_an_attack_that_no_machine_can_hold_is_one_line(machines):
    fitting = ({"device": "cuda"}, {"gpus": 0.25}, {"device": "cpu", "gpus": 4})
    check_capacity([asking(1, 0, engine) for engine in fitting])
    with pytest.raises(BadInput, match=r"^engine.gpus: an attack takes 2 GPUs, .* has more than 1$"):
        check_capacity([asking(1, 0, {"gpus": 2})])


def test_a_gpu_that_no_machine_of_the_cluster_has_is_one_line(monkeypatch):
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0}}])
    check_capacity([asking(1, 0)])
    with pytest.raises(BadInput, match=r"^engine.device: cuda, but no machine of the Ray cluster has a GPU"):
        check_capacity([asking(1, 0, {"device": "cuda"})])


@pytest.mark.parametrize(
    ("cluster", "engine", "taken"),
    [
        ({"CPU": 2.0}, {}, 0),
        ({"CPU": 2.0, "GPU": 1.0}, {}, 1),
        ({"CPU": 2.0, "GPU": 1.0}, {"gpus": 0.25}, 0.25),
        ({"CPU": 2.0, "GPU": 1.0}, {"device": "cpu"}, 0),
    ],
)
def test_where_an_attack_runs_is_the_clusters_word_not_this_machines(monkeypatch, cluster, engine, taken):
    """A driver with a GPU before workers without would wait for ever; the reverse would leave GPUs idle."""
    asked = []

    class Task:
        def options(self, **resources):
            asked.append(resources)
            return SimpleNamespace(remote=lambda *given: given)

    monkeypatch.setattr("ray.cluster_resources", lambda: cluster)
    monkeypatch.setattr("ray.remote", lambda **_: lambda function: Task())
    for here in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda here=here: here)
        _submitter()(SimpleNamespace(key="a", engine=asking(1, 0, engine).engine), None, None)
    assert asked == [{"num_cpus": 1, "num_gpus": taken}] * 2


@pytest.mark.parametrize("kind", [Exception, RuntimeError, OSError])  # the first is Ray's, of nodes that are late
def test_a_ray_that_does_not_start_is_one_line(kind, monkeypatch):
    def late(**_):
        raise kind("The current node timed out during startup.\nThis could happen because ...")

    monkeypatch.setattr("ray.init", late)
    with pytest.raises(FedsimError, match=r"^Ray cannot be started: The current node timed out .*$"), cluster():
        pass

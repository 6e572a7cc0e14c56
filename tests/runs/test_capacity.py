"""A client that no machine of a Ray cluster can hold is refused: Ray would wait for a larger one for ever."""

from __future__ import annotations

import pytest

from fedsim.errors import BadInput
from fedsim.runs.cluster import check_capacity
from fedsim.scenario import parse


def asking(cpus, gpus):
    resources = {"cpus": cpus, "gpus": gpus}
    return parse(
        {"name": "mine", "attacks": [], "federation": {"clients": 2, "resources": resources}}, rehearsed=False
    )


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

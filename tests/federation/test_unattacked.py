"""The training without transport is Flower's: the same clients are drawn, train alike and are averaged alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from federation_cells import BASE, CENTRAL, consistency_cells, work

from fedsim.federation.plan import Plan
from fedsim.federation.round import train_client
from fedsim.federation.unattacked import final_state
from fedsim.files import read_tensors
from fedsim.scenario.work import Work

CPU = torch.device("cpu")


def _one_round(described: Work) -> Work:
    return replace(described, federation=replace(described.federation, rounds=1))


def _distance(left, right) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)


OTHERS = {"other-defense": [{"name": "gaussian_noise", "std": 0.1}], "central": CENTRAL}


@pytest.mark.parametrize("name", [*consistency_cells(), *OTHERS])
def test_a_round_leaves_the_state_that_flower_sends_in_the_next(simulated, name):
    described = consistency_cells().get(name) or work(defense=OTHERS[name])
    first, second = (read_tensors(simulated.cell(name) / f"observations/round_{k}.state.safetensors") for k in (1, 2))
    found = final_state(Plan(_one_round(described)), first, device=CPU)
    assert {name: value.dtype for name, value in found.items()} == {name: second[name].dtype for name in second}
    tolerance = 1e-12 if described.federation.local.precision == "float64" else 2e-6
    assert _distance(found, second) <= tolerance * max(float(value.abs().max()) for value in second.values())
    assert _distance(first, second) > 1e3 * tolerance


def test_each_round_draws_other_clients_and_goes_on_from_the_last():
    described = work({"batch_size": 8})
    start = Plan(described).model().state_dict()
    once = final_state(Plan(_one_round(described)), start, device=CPU)
    twice = final_state(Plan(described), start, device=CPU)
    again = final_state(Plan(_one_round(described)), once, device=CPU)  # the first round's clients and batches again
    assert _distance(once, twice) > 0
    assert _distance(again, twice) > 0


def test_who_trained_on_more_images_weighs_more():
    """Clients that go through all their images once, as unequally many as they are: by hand, and by the server."""
    uneven = {**BASE["data"], "partition": {"kind": "dirichlet", "alpha": 0.3}}
    plan = Plan(_one_round(work({"share": "weights", "epochs": 1, "batch_size": 400}, data=uneven)))
    start = plan.model().state_dict()
    found = final_state(plan, start, device=CPU)
    trained = [train_client(plan, _loaded(plan, start), client=c, round=1, device=CPU) for c in plan.drawn(1)]
    counts = [len(one.labels) for one in trained]
    assert max(counts) > 1.5 * min(counts)
    for name in found:
        parts = [one.result.arrays[name].double() * count for one, count in zip(trained, counts)]
        torch.testing.assert_close(found[name].double(), sum(parts) / sum(counts), rtol=1e-5, atol=1e-7)


def _loaded(plan: Plan, state):
    model = plan.model()
    model.load_state_dict(state)
    return model


def test_replies_that_are_not_finite_are_left_out():
    plan = Plan(work({"learning_rate": 1e38, "share": "weights", "steps": 3}))
    start = plan.model().state_dict()
    assert _distance(final_state(plan, start, device=CPU), start) == 0

"""Numbers that attacks rely on, where a tendency would not tell the right one from something near it."""

import math

import pytest
import torch
from attack_victims import observe, paper_mlp

import attacks
from attacks import LocalTraining, NotApplicable, ThreatModel
from attacks.objectives import Euclidean
from attacks.precision import COMPUTED, entry_rounding, floor


def victim(**fields):
    model = paper_mlp(dropout=0.0, inputs=16, width=8)
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return model, observe(model, images, torch.tensor([1, 2, 3]), **fields)


def test_an_entry_is_rounded_as_evenly_spread_numbers_are():
    _, seen = victim(local=LocalTraining())
    found = entry_rounding(seen)
    name = "1.weight"
    steps = 2**-23 * (seen.state[name].double().abs() + 4 * seen.update[name].double().abs())
    torch.testing.assert_close(found[name], steps / math.sqrt(12), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_to_be_found_below_the_rounding_of_what_is_compared(dtype):
    observed = {"w": torch.tensor([[3.0, 4.0]], dtype=dtype)}
    eps = torch.finfo(dtype).eps
    relative = max((COMPUTED * eps) ** 2, COMPUTED * 2**-52)
    found = floor(Euclidean(), ["w"], observed, {"w": torch.tensor([2e-9])})
    assert found.tolist() == pytest.approx([2e-9 + relative * 25], rel=1e-4)


def test_a_sum_over_clients_that_no_batch_has_is_not_attacked_as_one():
    model, seen = victim(local=LocalTraining(steps=3))
    attack = attacks.create("inverting_gradients", iterations=2)
    with pytest.raises(NotApplicable, match="a sum over clients of several local steps is not the update of one batch"):
        attack(seen, ThreatModel(aggregation="sum_of_3"), model)
    assert attack(seen, ThreatModel(), model).images.shape == (3, 1, 4, 4)


def test_an_attack_that_would_start_from_algebra_says_why_it_did_not():
    model, seen = victim()
    answer = attacks.create("inverting_gradients", iterations=2, start="first_linear")(seen, ThreatModel(), model)
    assert answer.details["start"].startswith("random: "), answer.details
    assert "batch" in answer.details["start"]

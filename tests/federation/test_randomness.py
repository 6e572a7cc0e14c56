"""What a client draws is its own, of this round and of this seed: batches, masks, and the noise of its defense."""

from __future__ import annotations

import pytest
import torch
from federation_cells import work

from fedsim.federation.plan import Plan
from fedsim.local import train
from fedsim.scenario.work import Work

NOISE = [{"name": "gaussian_noise", "std": 0.1}]
PRIVATE = [{"name": "dp_sgd", "noise_multiplier": 1.0, "max_grad_norm": 1.0}]
OTHERS = [{"round": 2}, {"client": 1}, {"seed": 1}]


def _trained(described: Work, *, seed: int = 0, client: int = 0, round: int = 1):
    """The same images on the same weights, whoever trains and when."""
    plan = Plan(described)
    pixels, labels = plan.batch(0, 1)
    return train(
        plan.model(),
        plan.dataset.normalise(pixels),
        labels,
        local=plan.local,
        defense=plan.defense(),
        seed=seed,
        client=client,
        round=round,
    )


def _equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("other", OTHERS)
def test_batches(other):
    described = work({"batch_size": 20}, seed=other.get("seed", 0))
    first = Plan(work({"batch_size": 20})).batch(0, 1)
    second = Plan(described).batch(other.get("client", 0), other.get("round", 1))
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], Plan(work({"batch_size": 20})).batch(0, 1)[0])


@pytest.mark.parametrize("other", OTHERS)
def test_masks(other):
    first, again, second = (_trained(work(), **where) for where in ({}, {}, other))
    assert _equal(first.played.drawn, again.played.drawn)
    assert all(not torch.equal(first.played.drawn[path], second.played.drawn[path]) for path in first.played.drawn)


@pytest.mark.parametrize("defense", [NOISE, PRIVATE], ids=["gaussian_noise", "dp_sgd"])
@pytest.mark.parametrize("other", OTHERS)
def test_the_noise_of_a_defense(other, defense):
    still = {"name": "mlp", "dropout": 0.0, "width": 8}
    first, again, second = (_trained(work(model=still, defense=defense), **where) for where in ({}, {}, other))
    assert _equal(first.arrays, again.arrays)
    assert all(not torch.equal(first.arrays[name], second.arrays[name]) for name in first.arrays)

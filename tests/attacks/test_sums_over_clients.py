"""A sum over clients, as attacks that simulate a batch see it: one larger batch, where it is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from attack_victims import observe
from torch import nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, ThreatModel
from attacks.twin import attacker_copy, simulate
from attacks.updates import as_one_batch
from defenses.aggregation.mean import weighted_mean
from defenses.client.optimizers.adam import Adam
from defenses.client.optimizers.sgd import SGD
from defenses.stochastic import Dropout

SHAPE = (1, 4, 4)
SUM_OF_3 = ThreatModel(aggregation="sum_of_3")


def a_model(*extra: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 24), *extra, nn.GELU(), Dropout(0.4), nn.Linear(24, 5)).double()


def summed(model: nn.Module, local: LocalTraining | None, weights: Sequence[int] = (2, 2, 2)) -> Observation:
    """Three clients of two images each, in train mode with masks of their own, as plain PyTorch trains them."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(6, *SHAPE, dtype=torch.float64, generator=generator)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    each = [
        observe(model, x, y, seed=seed, local=local, classes=5)
        for seed, (x, y) in enumerate(zip(images.split(2), labels.split(2)))
    ]
    first = each[0]
    together = replace(
        first,
        update=weighted_mean([one.update for one in each], weights),
        batch_size=6,
        labels=labels,
        noise={name: torch.cat([one.noise[name] for one in each]) for name in first.noise},
        clients=(0, 1, 2),
        weights=tuple(weights),
    )
    return together, images


@pytest.mark.parametrize(
    "local",
    [
        None,
        LocalTraining(learning_rate=0.3),
        LocalTraining(learning_rate=0.3, optimizer=SGD(momentum=0.9, weight_decay=0.1)),
    ],
    ids=["gradient", "delta", "momentum and decay"],
)
def test_it_is_the_update_of_one_batch_of_all_their_images(local):
    model = a_model()
    seen, images = summed(model, local)
    as_one_batch(seen)
    twin = attacker_copy(model, seen.state)
    own = simulate(twin, seen.state, images, seen.labels, seen.noise, local=local, kind=seen.kind)
    for name, value in seen.update.items():
        torch.testing.assert_close(own[name], value, rtol=1e-9, atol=1e-12)
    oracle = attacks.create("well_informed", iterations=400, learning_rate=0.05, plateau=100, total_variation=0.0)
    found = oracle(seen, replace(SUM_OF_3, noise="known"), model)
    assert found.images.shape == (6, *SHAPE)
    assert found.losses[-1][1] < 1e-3 * found.losses[0][1]


CLIPPED = ({"name": "clip", "norm": 0.1},)


@pytest.mark.parametrize(
    ("local", "weights", "fields", "reason"),
    [
        (None, (2, 2, 4), {}, "weigh differently"),
        (LocalTraining(steps=2), (2, 2, 2), {"batch_size": 3}, "several local steps"),
        (LocalTraining(optimizer=Adam()), (2, 2, 2), {}, "adam acted on each client's own gradient"),
        (LocalTraining(clip_norm=0.1), (2, 2, 2), {}, "clipped its own gradient"),
        (LocalTraining(clip_value=0.1), (2, 2, 2), {}, "clipped its own gradient"),
        (None, (2, 2, 2), {"defense": CLIPPED}, "the defense acted on each client by itself"),
        (None, (2, 2, 2), {"defense": ({"name": "mixup"},)}, "the defense acted on each client by itself"),
    ],
)
def test_it_is_declined_where_it_is_no_batch(local, weights, fields, reason):
    seen, _ = summed(a_model(), None, weights)
    if local is not None:
        seen = replace(seen, kind="delta", local=local)
    attack = attacks.create("inverting_gradients", iterations=1)
    with pytest.raises(NotApplicable, match=reason):
        attack(replace(seen, **fields), SUM_OF_3, a_model())


def test_what_is_each_clients_own_is_not_shared():
    model = a_model(nn.BatchNorm1d(24))
    seen, _ = summed(model, None)
    attack = attacks.create("inverting_gradients", iterations=1)
    with pytest.raises(NotApplicable, match="each client's batch has its own statistics in 2"):
        attack(seen, SUM_OF_3, model)
    attack(seen, replace(SUM_OF_3, client_mode="eval"), model)  # statistics of before: nobody's own

    class OneMask(Dropout):
        axes = ("step",)

    alike = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), OneMask(0.5), nn.Linear(24, 5)).double()
    seen, _ = summed(alike, None)
    with pytest.raises(NotApplicable, match="each client drew its own noise in 2"):
        attacks.create("dropout_inversion", iterations=1)(seen, SUM_OF_3, alike)


def test_secure_aggregation_itself_is_no_obstacle():
    seen, _ = summed(a_model(), None)
    attack = attacks.create("dropout_inversion", iterations=2)
    known = replace(seen, defense=({"name": "secure_aggregation"},))
    assert attack(known, replace(SUM_OF_3, defense="known"), a_model()).images.shape == (6, *SHAPE)

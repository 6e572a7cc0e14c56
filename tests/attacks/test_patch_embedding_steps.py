"""A vision transformer's image from several local steps, batches and other local training: solved, or noticed."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from patch_victims import changed, declined, psnr, seen, shallow, solve, tiny_vit, victim
from torch import nn

import attacks
from attacks import LocalTraining, NotApplicable, ThreatModel
from defenses.client.optimizers.sgd import SGD


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_image_may_come_back_in_several_steps(rate: float) -> None:
    torch.manual_seed(0)
    model = tiny_vit(rate)
    images, labels = victim((1, 8, 8))
    local = LocalTraining(steps=3, learning_rate=0.1, optimizer=SGD(momentum=0.9, weight_decay=0.1))
    result = solve(seen(model, images.expand(3, -1, -1, -1), labels.expand(3), local=local), model)
    assert psnr(result, images) >= 60
    assert result.details["certain"] == [True, False, False]
    assert result.images.shape == (3, 1, 8, 8)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("steps", [2, 5])
def test_different_images_in_the_steps_are_noticed(rate: float, steps: int) -> None:
    torch.manual_seed(0)
    model = tiny_vit(rate)
    images, labels = victim((1, 8, 8), steps)
    observation = seen(model, images, labels, local=LocalTraining(steps=steps, learning_rate=0.05))
    assert "different images" in declined(observation, model)


def test_what_is_certain_of_several_steps_is_one_of_their_images() -> None:
    """A large step leaves the next, of the same label, little gradient: the first image explains the update alone."""
    found = 0
    for seed in range(6):
        torch.manual_seed(seed)
        model = shallow(0.0, (3, 16, 16), seed=seed)
        images, labels = victim((3, 16, 16), 2, seed)[0], torch.zeros(2, dtype=torch.int64)
        observation = seen(model, images, labels, local=LocalTraining(steps=2, learning_rate=1.0))
        [result] = attacks.create("patch_embedding").run([observation], ThreatModel(), model)
        if isinstance(result, NotApplicable) or result.details["certain"] == [False, False]:
            continue
        found += 1
        assert result.details["certain"] == [True, False]
        assert max(psnr(result, images[:1]), psnr(result, images[1:])) >= 30
    assert found > 0


def test_a_batch_is_declined_also_when_its_size_is_not_granted() -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.5)
    images, labels = victim((1, 8, 8), 2)
    observation = seen(model, images, labels)
    assert "batch of 2" in declined(observation, model)
    assert "different images" in declined(replace(observation, batch_size=None), model)
    alone = seen(model, images[:1], labels[:1])
    assert psnr(solve(replace(alone, batch_size=None), model), images[:1]) >= 100


def test_weight_decay_is_undone_when_known_and_noticed_when_not() -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.5)
    images, labels = victim((1, 8, 8))
    local = LocalTraining(learning_rate=0.1, optimizer=SGD(weight_decay=0.1))
    observation = seen(model, images, labels, local=local)
    assert psnr(solve(observation, model), images) >= 90
    assert "local_training known" in declined(replace(observation, local=None), model)
    unexpected = solve(replace(observation, local=replace(local, optimizer=SGD(weight_decay=0.0))), model)
    assert unexpected.details["certain"] == [False]
    strong = seen(model, images, labels, local=replace(local, optimizer=SGD(weight_decay=10.0)))
    assert psnr(solve(strong, model), images) >= 60
    assumed = replace(strong, local=replace(local, optimizer=SGD()))
    assert "weight decay that is not known" in declined(assumed, model)


def test_an_update_of_adamw_is_noticed() -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.5)
    images, labels = victim((1, 8, 8))
    client = copy.deepcopy(model).train()
    optimiser = torch.optim.AdamW(client.parameters(), lr=0.1)
    nn.functional.cross_entropy(client(images), labels).backward()
    optimiser.step()
    before = dict(model.named_parameters())
    update = {name: (p - before[name]).detach() for name, p in client.named_parameters()}
    observation = replace(seen(model, images, labels, local=LocalTraining(learning_rate=0.1)), update=update)
    assert "a step of Adam" in declined(observation, model)


def test_clipping_changes_nothing() -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.5)
    images, labels = victim((1, 8, 8))
    for scale in (1e-3, 1e3):
        result = solve(changed(seen(model, images, labels), lambda _, value, s=scale: s * value), model)
        assert psnr(result, images) >= 100
        assert result.details["certain"] == [True]

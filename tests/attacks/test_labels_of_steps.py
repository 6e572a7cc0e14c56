"""The labels of several local steps are counted in the sum of their gradients, or found together with the images."""

from __future__ import annotations

import pytest
import torch
from attack_victims import observe, psnr
from torch import nn

import attacks
from attacks import LocalTraining, NotApplicable, ThreatModel
from attacks.labels import infer_labels
from attacks.updates import mean_gradient
from defenses.client.optimizers.adamw import AdamW
from defenses.client.optimizers.sgd import SGD
from fedsim.scoring.matching import match


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.GELU(), nn.Dropout(0.3), nn.Linear(24, 7))


@pytest.mark.parametrize("optimizer", [SGD(), SGD(momentum=0.9, weight_decay=1e-3), SGD(momentum=0.5, nesterov=True)])
@pytest.mark.parametrize("steps", [2, 5])
def test_they_are_counted(optimizer: SGD, steps: int) -> None:
    labels = torch.tensor([3, 0, 3, 6, 1, 1, 5, 5, 5, 2])[: 2 * steps]
    images = torch.rand(len(labels), 1, 6, 6, generator=torch.Generator().manual_seed(1))
    local = LocalTraining(steps=steps, learning_rate=0.02, optimizer=optimizer)
    observation = observe(model(), images, labels, local=local)
    found = infer_labels(model(), mean_gradient(observation), batch_size=len(labels), classes=7)
    right = sum(min(int((found.labels == k).sum()), int((labels == k).sum())) for k in range(7))
    assert right >= len(labels) - (optimizer.momentum > 0)  # momentum weighs the first steps most


def test_an_optimizer_that_hides_gradients_is_named() -> None:
    local = LocalTraining(steps=2, optimizer=SGD())
    observation = observe(model(), torch.rand(2, 1, 6, 6), torch.tensor([0, 1]), local=local)
    object.__setattr__(observation, "local", LocalTraining(steps=2, optimizer=AdamW()))
    with pytest.raises(NotApplicable, match="adamw does not add up gradients"):
        mean_gradient(observation)


def test_they_are_found_together_with_the_images() -> None:
    """Of a plain FedAvg client of two steps, whose labels nobody has granted."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 48), nn.GELU(), nn.Linear(48, 7))
    images, labels = torch.rand(4, 1, 6, 6) * 2 - 1, torch.tensor([3, 0, 6, 1])
    local = LocalTraining(steps=2, learning_rate=0.05)
    observation = observe(net, images, labels, local=local, mean=(0.5,), std=(0.5,), classes=7)
    object.__setattr__(observation, "labels", None)
    attack = attacks.create("inverting_gradients", iterations=250, learning_rate=0.05)
    answer = attack(observation, ThreatModel(labels="unknown"), net)
    order = match(images, answer.images)
    assert None not in order
    assert answer.labels is not None
    assert answer.labels[order].tolist() == labels.tolist()
    assert psnr(answer.images[order], images, 0.5) > 25


def test_an_attack_that_does_not_look_for_them_still_asks() -> None:
    observation = observe(model(), torch.rand(1, 1, 6, 6), torch.tensor([2]), classes=7)
    with pytest.raises(NotApplicable, match="labels known or inferred"):
        attacks.create("dropout_inversion")(observation, ThreatModel(labels="unknown"), model())

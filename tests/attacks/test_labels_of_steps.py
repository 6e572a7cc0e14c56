"""The labels of several local steps are counted in the sum of their gradients."""

from __future__ import annotations

import pytest
import torch
from attack_victims import observe
from torch import nn

from attacks import LocalTraining, NotApplicable
from attacks.labels import infer_labels
from attacks.updates import mean_gradient
from defenses.client.optimizers.adamw import AdamW
from defenses.client.optimizers.sgd import SGD


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

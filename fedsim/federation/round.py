"""One client's round of a plan: its batch, its model, its local training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from defenses.base import Memory
from defenses.client.training import freeze
from fedsim.federation.plan import Plan
from fedsim.local import LocalResult, train


@dataclass(frozen=True)
class Trained:
    """What a client trained on in a round, and what it made of it.

    Args:
        pixels: uint8 (N, C, H, W), as they came from the data set.
        labels: (N,).
    """

    pixels: Tensor
    labels: Tensor
    result: LocalResult


def train_client(
    plan: Plan, model: nn.Module, *, client: int, round: int, device: torch.device, memory: Memory | None = None
) -> Trained:
    """Train `model`, which holds the weights that the server sent, for one round of one client.

    Args:
        memory: what the client's defense remembers of its round before.
    """
    pixels, labels = plan.batch(client, round)
    result = train(
        freeze(model.to(device), plan.local.training.trained),
        plan.dataset.normalise(pixels).to(device, plan.dtype),
        labels.to(device),
        local=plan.local,
        defense=plan.defense(),
        seed=plan.client_seed,
        client=client,
        round=round,
        classes=len(plan.dataset.classes),
        memory={name: value.to(device) for name, value in (memory or {}).items()},
    )
    return Trained(pixels, labels, result)

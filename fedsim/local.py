"""A client's round: honest local training, with the hooks of its defense, on one machine and without Flower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from defenses import Defense
from defenses.stochastic import record
from fedsim.models import entries
from fedsim.random import generator_for, seed_torch


@dataclass(frozen=True)
class LocalResult:
    """What a client's round gives.

    Args:
        arrays: what is sent, by the entries of the model's state: the gradient or the new weights of what was trained
            (tied weights under each of their names), frozen parameters as they came, and the buffers.
        noise: what each stochastic layer drew, (steps * batch_size, ...) by module path.
        loss: the mean of the training losses of the steps.
    """

    arrays: dict[str, Tensor]
    noise: dict[str, Tensor]
    loss: float


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    local: dict[str, Any],
    defense: Defense,
    seed: int,
    client: int,
    round: int,
) -> LocalResult:
    """Run one round's local training on `model`, which holds the weights that the server sent.

    Args:
        images: (steps * batch_size, C, H, W) in normalised units.
        labels: (steps * batch_size,) class indices.
        local: the scenario's `federation.local` block.
        defense: the client's defense, or composition of defenses.

    The global generator is seeded from (seed, client, round) for the length of the call, so that whatever the model
    draws (dropout masks, or a user's own layer) can be repeated, and does not depend on which process runs it.
    """
    generator = generator_for(seed, "defense", client=client, round=round)
    model = defense.on_model(model)
    model.train(local["mode"] == "train")
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    sent = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimiser = torch.optim.SGD(parameters.values(), lr=local["learning_rate"])
    losses: list[float] = []
    gradient: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]), record(model) as drawn:
        seed_torch(seed, "noise", client=client, round=round)
        for batch, targets in zip(images.split(local["batch_size"]), labels.split(local["batch_size"]), strict=True):
            batch, targets = defense.on_batch(batch, targets, generator=generator)
            optimiser.zero_grad()
            if defense.replaces_gradient:
                gradient = defense.gradient(model, batch, targets, generator=generator)
                losses.append(float("nan"))
            else:
                loss = cross_entropy(model(batch), targets)
                loss.backward()
                losses.append(loss.item())
                gradient = {name: _gradient_of(parameter) for name, parameter in parameters.items()}
            for name, parameter in parameters.items():
                parameter.grad = gradient[name].clone()
            optimiser.step()
    if local["share"] == "gradient":
        changed = defense.on_update(gradient, generator=generator)
    else:
        delta = {name: parameter.detach() - sent[name] for name, parameter in parameters.items()}
        delta = defense.on_update(delta, generator=generator)
        changed = {name: sent[name] + value for name, value in delta.items()}
    names = entries.trained(model)
    arrays = {
        entry: changed[names[entry]] if entry in names else value.detach().clone()
        for entry, value in model.state_dict().items()
    }
    noise = {path: torch.cat(draws) for path, draws in drawn.items() if draws}
    return LocalResult(arrays, noise, sum(losses) / len(losses))


def _gradient_of(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()

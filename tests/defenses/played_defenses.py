"""Clients and updates for the tests of single defenses, and what a client plays under one."""

from __future__ import annotations

import zlib
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.base import Defense, Turn
from defenses.client.compute import Functional
from defenses.client.own import Own
from defenses.client.round import ClientRound, Played, play
from defenses.client.site import Sampling
from fedsim.models import build

Tensors = dict[str, Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Layered(nn.Module):
    """What an `an_update` may be the update of."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(100, 64), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layer(x)


def turn(seed: int = 0) -> Turn:
    """As of a client whose sites all draw from generators of one seed."""
    source, model = Sampling(lambda site, step: generator(seed)), Layered()
    weights = {name: torch.full_like(value, 0.1) for name, value in model.named_parameters()}
    images, labels = torch.randn(2, 100, generator=generator(7)), torch.tensor([3, 1])
    resting = Functional(model, source)
    loss = partial(resting.loss_at, images=images, labels=labels)
    own = Own(
        weights=weights,
        images=images,
        rate=0.1,
        labels=labels,
        loss=loss,
        loss_of=resting.loss_at,
        entering=partial(resting.entering, weights),
    )
    return Turn(source.draw, own=own, classes=64)


def an_update() -> Tensors:
    shapes = {"layer.weight": (64, 100), "layer.bias": (64,), "scale": ()}
    return {name: 2 * torch.randn(shape, generator=generator(i)) for i, (name, shape) in enumerate(shapes.items())}


def flat(update: Tensors) -> Tensor:
    return torch.cat([value.flatten() for value in update.values()])


def private_model(name: str = "mlp", **keys: object) -> nn.Module:
    return build({"name": name, **keys}, input_shape=(3, 16, 16), classes=10, seed=0).double()


def a_batch(size: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 16, 16, dtype=torch.float64, generator=generator(1)), torch.arange(size)


def plain_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensors:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(F.cross_entropy(model(images), labels), list(named.values()))))


def named_generator(salt: str, site: str, step: int) -> torch.Generator:
    return generator(zlib.crc32(f"{salt} {site} {step}".encode()))


def played(defense: Defense, model: nn.Module, images: Tensor, labels: Tensor) -> Played:
    """One step of a client that shares its gradient; all that it draws is of its own site."""

    def draw(site: str, step: int) -> torch.Generator:
        return generator(zlib.crc32(site.encode()))

    state = {name: value.clone() for name, value in model.state_dict().items()}
    return play(ClientRound(model=model, defense=defense, classes=10), state, images, labels, draw)

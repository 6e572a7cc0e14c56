"""What the relatives of dropout must achieve: each against a computation of its own, written out by hand."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.base import Defense
from defenses.client.round import ClientRound, Played, play
from fedsim.models import build

CLASSES, SIDE = 10, 16

KEYS = {
    "mlp": {"width": 16},
    "lenet": {},
    "resnet18": {"width": 4, "norm": "group"},
    "vit": {"depth": 2, "width": 16, "heads": 2, "mlp": 16},
}


def model(name: str, *, dropout: float = 0.0) -> nn.Module:
    spec = {"name": name, "dropout": dropout, **KEYS[name]}
    return build(spec, input_shape=(3, SIDE, SIDE), classes=CLASSES, seed=0).double()


def batch(size: int = 3) -> tuple[Tensor, Tensor]:
    images = torch.randn(size, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(size) % CLASSES


def step(defense: Defense, model: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> Played:
    """One step of a client that shares its gradient."""

    def draw(site: str, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(f"{seed} {site} {step}".encode()))

    state = {name: value.clone() for name, value in model.state_dict().items()}
    return play(ClientRound(model=model, defense=defense, classes=CLASSES), state, images, labels, draw)


def gradient(model: nn.Module, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(F.cross_entropy(logits, labels), list(named.values()))))


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(dict(found), dict(expected), rtol=1e-9, atol=1e-12)


def drops_channels(defense: Defense) -> None:
    plain, changed = model("lenet"), defense.on_model(model("lenet"))
    images, labels = batch()
    played = step(defense, changed, images, labels)
    assert {name: tuple(value.shape) for name, value in played.drawn.items()} == {
        "features.2.spatial_dropout": (3, 12, 1, 1),
        "features.4.spatial_dropout": (3, 12, 1, 1),
    }
    first, second, third = (plain.get_submodule(f"features.{i}") for i in (0, 2, 4))
    masks = list(played.drawn.values())
    h = first(images).sigmoid() * masks[0] / 0.7
    h = second(h).sigmoid() * masks[1] / 0.7
    logits = plain.get_submodule("head")(third(h).sigmoid().flatten(1))
    assert_same(played.update, gradient(plain, logits, labels))
    assert len(defense.on_model(model("resnet18")).state_dict()) == len(model("resnet18").state_dict())
    for name in ("mlp", "vit"):
        with pytest.raises(ValueError, match=r"^spatial_dropout: .* has no convolution but one"):
            defense.on_model(model(name))

"""Models and updates from which one linear system does not give the image: declined, with the reason."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from patch_victims import OwnViT, changed, declined, psnr, seen, solve, tiny_vit, victim
from torch import Tensor, nn

import attacks
from attacks import NotApplicable, ThreatModel
from fedsim import models


def test_fewer_dimensions_than_patches_are_declined() -> None:
    torch.manual_seed(0)
    images, labels = victim((3, 12, 8))
    for width in (4, 8):  # below a layer norm, 8 dimensions are 7 equations
        model = OwnViT(width=width)
        assert "dimensions" in declined(seen(model, images, labels), model)


class Averaged(nn.Module):
    """All tokens have the same gradient: the update is of the mean patch alone."""

    def __init__(self, *, first: nn.Module) -> None:
        super().__init__()
        self.project = nn.Conv2d(1, 24, 2, stride=2)
        self.where = nn.Parameter(torch.randn(1, 24, 4, 4))
        self.first = first
        self.head = nn.Linear(24, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.first(self.project(images) + self.where).mean((2, 3)))


def test_a_singular_system_is_declined_by_its_rank() -> None:
    model = Averaged(first=nn.Dropout(0.0))
    assert "rank 1," in declined(seen(model, *victim((1, 8, 8))), model)


class Sinusoidal(OwnViT):
    def __init__(self) -> None:
        super().__init__()
        fixed = torch.sin(torch.arange(9)[:, None] * torch.arange(24) / 5.0)[None]
        del self.pos_embed
        self.register_buffer("pos_embed", fixed)


def test_fixed_positions_are_declined() -> None:
    model = Sinusoidal()
    images, labels = victim((3, 12, 8))
    assert "no learned position embedding" in declined(seen(model, images, labels), model)
    frozen = OwnViT()
    frozen.pos_embed.requires_grad_(False)
    observation = seen(frozen, images, labels)
    assert "pos_embed" not in observation.update
    assert "lacks the positions, pos_embed" in declined(observation, frozen)
    zero = changed(seen(OwnViT(), images, labels), lambda name, value: value * (name != "pos_embed"))
    assert "lacks the positions, pos_embed: zero" in declined(zero, OwnViT())


def test_a_head_initialised_with_zeros_is_named() -> None:
    model = tiny_vit(0.5)
    nn.init.zeros_(model.get_parameter("head.weight"))
    assert "head initialised with zeros" in declined(seen(model, *victim((1, 8, 8))), model)


@pytest.mark.parametrize("between", [nn.Dropout(0.1), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.3))], ids=str)
def test_dropout_before_the_positions_is_named_or_noticed(between: nn.Module) -> None:
    torch.manual_seed(0)
    model = OwnViT(between=between)
    images, labels = victim((3, 12, 8))
    observation = seen(model, images, labels)
    assert "between" in declined(observation, model)
    hidden = OwnViT()  # the same model to an attacker who is not granted the rate
    [result] = attacks.create("patch_embedding").run([observation], ThreatModel(dropout_rate="unknown"), hidden)
    assert isinstance(result, NotApplicable) or result.details["certain"] == [False]
    evaluating = seen(model, images, labels, train=False)
    assert psnr(solve(evaluating, model, client_mode="eval"), images) >= 100


class Scaled(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return 3 * tokens


@pytest.mark.parametrize("between", [nn.LayerNorm(24), nn.Linear(24, 24), nn.GELU(), Scaled()], ids=str)
def test_tokens_that_are_no_plain_sum_are_declined(between: nn.Module) -> None:
    torch.manual_seed(0)
    model = OwnViT(between=between)
    assert "plainly added" in declined(seen(model, *victim((3, 12, 8))), model)


class Overlapping(nn.Module):
    """Convolutional stem of any kind, learned positions."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, **options)
        self.where = nn.Parameter(torch.randn(self.stem(torch.zeros(1, 1, 8, 8)).shape[1:]))
        self.head = nn.Linear(24, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((self.stem(images) + self.where).square().mean((2, 3)))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kernel_size": 4, "stride": 2}, "overlap"),
        ({"kernel_size": 2, "stride": 2, "padding": 1}, "pads"),
        ({"kernel_size": 3, "stride": 3}, "tile"),
        ({"kernel_size": 8, "stride": 8}, "one vector"),
    ],
)
def test_stems_that_are_no_patches_are_declined(options: dict[str, Any], reason: str) -> None:
    model = Overlapping(**options)
    assert reason in declined(seen(model, *victim((1, 8, 8))), model)


@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_other_models_are_declined(name: str) -> None:
    model = models.build({"name": name, "dropout": 0.5}, input_shape=(3, 32, 32), classes=4, seed=0)
    assert "first layer" in declined(seen(model, *victim((3, 32, 32))), model)


def test_unusable_updates_are_declined() -> None:
    model = tiny_vit(0.5)
    observation = seen(model, *victim((1, 8, 8)))
    broken = {
        "not finite": changed(observation, lambda _, value: value * math.nan),
        "is zero": changed(observation, lambda _, value: value * 0),
        "shape": changed(observation, lambda _, value: value[..., :1]),
        "lacks the patch embedding": replace(observation, update={"head.bias": observation.update["head.bias"]}),
    }
    for reason, bad in broken.items():
        assert reason in declined(bad, model)

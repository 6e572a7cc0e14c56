"""One image of a vision transformer's update by one linear system: exact, whatever the model drew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patch_victims import STD, OwnViT, noisy, psnr, seen, shallow, solve, tiny_vit, victim
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, ThreatModel
from fedsim import models


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.75])
def test_the_bundled_vit_hides_nothing_at_any_rate(rate: float) -> None:
    torch.manual_seed(0)
    spec = {"name": "vit", "dropout": rate}
    model = models.build(spec, input_shape=(3, 32, 32), classes=4, seed=0)
    images, labels = victim((3, 32, 32))
    result = solve(seen(model, images, labels), model)
    assert psnr(result, images) >= 100
    assert result.details["certain"] == [True]
    assert result.details["stage"] == "patch_embedding"
    assert result.loss < 1e-5
    delta = solve(seen(model, images, labels, local=LocalTraining(learning_rate=0.1)), model)
    assert psnr(delta, images) >= (55 if rate < 0.5 else 65)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rate": 0.5},
        {"pool": "mean", "rate": 0.25},
        {"bias": False, "rate": 0.5},
        {"after": nn.LayerNorm(24)},
        {"after": nn.Sequential(nn.Dropout(0.5), nn.LayerNorm(24))},
    ],
    ids=str,
)
def test_a_users_own_vit_with_bare_positions_and_hidden_dropout(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = OwnViT(**options)
    images, labels = victim((3, 12, 8))
    result = solve(seen(model, images, labels), model)
    assert psnr(result, images) >= 100
    assert result.details["certain"] == [True]
    assert result.details["patches"] == 8


def test_images_of_8_bits_are_recognised_and_no_others() -> None:
    model = shallow(0.0, (3, 32, 32), seed=0)
    images, labels = victim((3, 32, 32))
    coarse = ((images * STD + STD) * 255).round().div(255).sub(STD).div(STD)
    least_squares, rounded = (solve(seen(model, x, labels), model) for x in (images, coarse))
    assert rounded.details["eight_bit"]
    assert psnr(rounded, coarse) > psnr(least_squares, images) + 20
    assert not least_squares.details["eight_bit"]
    almost = coarse.clone()
    almost[..., :4, :4] = images[..., :4, :4]
    result = solve(seen(model, almost, labels), model)
    assert not result.details["eight_bit"]
    assert psnr(result, almost) >= 90
    for level in (1e-5, 1e-2):
        assert not solve(noisy(seen(model, coarse, labels), level), model).details["eight_bit"]


class ShuffledViT(nn.Module):
    """Patches as (h, w, P), taken column by column and embedded by a Linear; positions as (D, N); two extra tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(20, 4)
        self.extra = nn.Parameter(torch.randn(2, 20))
        self.where = nn.Parameter(torch.randn(20, 10))
        self.project = nn.Linear(8, 20)
        self.block = nn.Sequential(nn.Linear(20, 20), nn.GELU())

    def forward(self, images: Tensor) -> Tensor:
        patches = nn.functional.pixel_unshuffle(images.transpose(2, 3), 2).permute(0, 2, 3, 1)
        tokens = torch.cat([self.project(patches).flatten(1, 2), self.extra.expand(len(images), -1, -1)], dim=1)
        tokens = self.block(tokens + self.where.T)
        return self.head((tokens * tokens).mean(1))


def test_any_arrangement_of_patches_and_positions_is_found() -> None:
    torch.manual_seed(0)
    model = ShuffledViT()
    images, labels = victim((2, 4, 8))
    result = solve(seen(model, images, labels), model)
    assert psnr(result, images) >= 100
    assert result.details["certain"] == [True]


@settings(deadline=None, max_examples=15)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(2, 4),
    height=st.integers(1, 4),
    breadth=st.integers(2, 4),
    channels=st.sampled_from([1, 3]),
    width=st.sampled_from([16, 20, 28]),
    rate=st.sampled_from([0.0, 0.3, 0.6]),
    pool=st.sampled_from(["class", "mean"]),
    seed=st.integers(0, 99),
)
def test_over_shapes(
    rows: int, columns: int, height: int, breadth: int, channels: int, width: int, rate: float, pool: str, seed: int
) -> None:
    torch.manual_seed(seed)
    shape = (channels, rows * height, columns * breadth)
    model = OwnViT(shape=shape, patch=(height, breadth), width=width, rate=rate, pool=pool).double()
    images, labels = victim(shape, seed=seed)
    result = solve(seen(model, images.double(), labels, seed=seed), model)
    assert psnr(result, images) >= 150
    assert result.details["certain"] == [True]


def test_the_given_model_and_the_global_random_state_are_left_alone() -> None:
    model = OwnViT(rate=0.5)
    model.after.eval()
    images, labels = victim((3, 12, 8))
    observation = seen(model, images, labels)
    before, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    attacks.create("patch_embedding")(observation, ThreatModel(), model)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_image_beyond_the_range_of_pixels_is_not_certain() -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.5)
    images, labels = victim((1, 8, 8))
    inside, beyond = (solve(seen(model, scale * images, labels), model) for scale in (1.0, 1.2))
    assert inside.details["certain"] == [True]
    assert psnr(beyond, 1.2 * images) >= 100
    assert beyond.details["certain"] == [False]


def test_a_dropped_token_is_not_determined_and_the_others_are() -> None:
    torch.manual_seed(1)
    model = OwnViT(after=nn.Dropout1d(0.3))
    images, labels = victim((3, 12, 8))
    result = solve(seen(model, images, labels), model)
    missing = result.details["undetermined"]
    assert 0 < missing < 8
    assert result.details["certain"] == [False]
    exact = (result.images - images).abs() < 1e-4
    assert int(exact.sum()) == (8 - missing) * 3 * 12
    assert (result.images[~exact] == 0).all()

"""APRIL's closed form: exact on its own architecture, declined with the reason elsewhere."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_victims import observe
from hypothesis import given, settings
from hypothesis import strategies as st
from patch_victims import AprilViT, OwnViT, tiny_vit
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel
from defenses.client.optimizers.sgd import SGD
from fedsim import models


def victim(model: nn.Module, *, shape: tuple[int, int, int] = (1, 8, 8), count: int = 1, **fields: Any) -> Any:
    """An image with pixels in [0, 1], normalised with mean and deviation 0.5, and what the server sees of it."""
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = images.to(next(model.parameters()).dtype)
    half = (0.5,) * shape[0]
    return images, observe(model, images, torch.arange(count) % 4, mean=half, std=half, classes=4, **fields)


def solve(observation: Observation, model: nn.Module) -> Reconstruction:
    return attacks.create("april")(observation, ThreatModel(), copy.deepcopy(model))


def declined(observation: Observation, model: nn.Module) -> str:
    with pytest.raises(NotApplicable) as caught:
        solve(observation, model)
    return str(caught.value)


def psnr(result: Reconstruction, images: Tensor) -> float:
    return -10 * math.log10(max(float((0.5 * (result.images.double() - images)).square().mean()), 1e-30))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_it_is_exact_on_its_architecture(fused: bool, rate: float) -> None:
    torch.manual_seed(0)
    model = AprilViT(fused=fused, rate=rate)
    images, observation = victim(model)
    result = solve(observation, model)
    assert psnr(result, images) >= 60
    assert result.details["certain"] == [True]
    assert result.details["stage"] == "april"
    assert abs(psnr(result, images) + 20 * math.log10(result.details["expected_error"])) < 12
    images, delta = victim(model, local=LocalTraining(learning_rate=0.1, optimizer=SGD(weight_decay=0.01)))
    assert psnr(solve(delta, model), images) >= 40


class OneAttention(nn.Module):
    """A third design: a convolution, a class token, one attention layer per output, positions as (1, N, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 36, (2, 4), stride=(2, 4), bias=False)
        self.cls = nn.Parameter(torch.randn(36))
        self.where = nn.Parameter(torch.randn(1, 9, 36))
        self.query, self.key, self.value = (nn.Linear(36, 36, bias=False) for _ in "qkv")
        self.head = nn.Linear(36, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = torch.cat([self.cls.expand(len(images), 1, -1), self.proj(images).flatten(2).transpose(1, 2)], 1)
        z = tokens + self.where
        weights = (self.query(z) @ self.key(z).transpose(1, 2) / 6).softmax(-1)
        return self.head(torch.tanh(weights @ self.value(z)).mean(1))


def test_a_class_token_and_a_convolution() -> None:
    torch.manual_seed(0)
    model = OneAttention()
    images, observation = victim(model.double(), shape=(3, 8, 8))
    result = solve(observation, model)
    assert psnr(result, images) >= 120


@settings(deadline=None, max_examples=10)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(2, 4),
    patch=st.integers(1, 3),
    width=st.sampled_from([20, 32]),
    rate=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 99),
)
def test_over_shapes(rows: int, columns: int, patch: int, width: int, rate: float, seed: int) -> None:
    torch.manual_seed(seed)
    shape = (1, rows * patch, columns * patch)
    model = AprilViT(shape=shape, patch=patch, width=width, rate=rate).double()
    images = torch.rand(1, *shape, dtype=torch.float64) * 2 - 1
    observation = observe(model, images, torch.tensor([1]), mean=(0.5,), std=(0.5,), classes=4, seed=seed)
    result = solve(observation, model)
    assert psnr(result, images) >= 100
    assert result.details["certain"] == [True]


def test_other_architectures_are_declined_with_the_reason() -> None:
    torch.manual_seed(0)
    for model in (tiny_vit(0.5), AprilViT(skip=True), AprilViT(norm=True), AprilViT(norm=True, skip=True)):
        assert "in the way" in declined(victim(model)[1], model)
    own = OwnViT()
    assert declined(victim(own, shape=(3, 12, 8))[1], own)
    mlp = models.build({"name": "mlp"}, input_shape=(1, 8, 8), classes=4, seed=0)
    assert "first layer" in declined(victim(mlp)[1], mlp)


def test_batches_steps_and_too_small_tokens_are_declined() -> None:
    model = AprilViT()
    assert "batch" in declined(victim(model, count=2)[1], model)
    assert "batch" in declined(replace(victim(model)[1], batch_size=None), model)
    steps = victim(model, count=2, local=LocalTraining(steps=2))[1]
    assert "one step" in declined(steps, model)
    small = AprilViT(width=8)
    assert "dimensions" in declined(victim(small)[1], small)
    wide = AprilViT(shape=(1, 12, 12), patch=6, width=32)
    assert "cannot be undone" in declined(victim(wide, shape=(1, 12, 12))[1], wide)


def test_degraded_updates_are_never_called_certain() -> None:
    torch.manual_seed(0)
    model = AprilViT(rate=0.5)
    images, observation = victim(model)
    generator = torch.Generator().manual_seed(0)

    def answer(change: Any) -> Reconstruction | NotApplicable:
        update = {name: change(name, value) for name, value in observation.update.items()}
        [result] = attacks.create("april").run([replace(observation, update=update)], ThreatModel(), model)
        return result

    clipped = answer(lambda _, value: 0.01 * value)
    assert isinstance(clipped, Reconstruction)
    assert psnr(clipped, images) >= 60
    for level in (1e-2, 1e-1):
        noised = answer(lambda _, v, e=level: v + e * v.std() * torch.randn(v.shape, generator=generator))
        assert isinstance(noised, NotApplicable) or noised.details["certain"] == [False]
    pruned = answer(lambda _, value: value * (value.abs() > value.abs().median()))
    assert isinstance(pruned, NotApplicable) or pruned.details["certain"] == [False]
    assert "lacks the positions, positions" in str(answer(lambda name, value: value * (name != "positions")))
    assert "of the self-attention: zero" in str(answer(lambda name, value: value * (not name.startswith("qkv"))))
    lacking = {name: value for name, value in observation.update.items() if not name.startswith("qkv.1")}
    assert "lacks qkv.1.weight" in declined(replace(observation, update=lacking), model)
    head = AprilViT()
    nn.init.zeros_(head.head.weight)
    assert "head initialised with zeros" in declined(victim(head)[1], head)

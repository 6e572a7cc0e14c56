"""One image from a noisy update whose noise the attacker knows: how near it comes, and what is called certain."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD, mnist, observe, psnr
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.closed_form import noisy
from attacks.closed_form.base import Puzzle
from attacks.closed_form.first_layer import first_linear
from attacks.closed_form.noisy import denoise, of_those_that_agree
from attacks.closed_form.saturated import scaled
from defenses import compose
from defenses.client.round import ClientRound, play
from fedsim.models import build

TOLD = ThreatModel(defense="known")
CLIPPED = {"name": "clip", "norm": 0.5}


def victim(
    *specs: dict[str, Any], bias: bool = True, dropout: float = 0.5, local: LocalTraining | None = None
) -> tuple[nn.Module, Tensor, Observation]:
    """A digit through an MLP, and what the server sees of it under some defenses."""
    images, labels = mnist(1)
    described = {"name": "mlp", "width": 256, "bias": bias, "dropout": dropout, "defenses": list(specs)}
    model = build(described, input_shape=(1, 28, 28), classes=10, seed=0)
    seen = observe(model, images, labels, mean=(MNIST_MEAN,), std=(MNIST_STD,), local=local)
    client = ClientRound(
        model=build(described, input_shape=(1, 28, 28), classes=10, seed=0),
        local=local or LocalTraining(),
        defense=compose(specs),
        share=seen.kind,
        batch_size=1,
        classes=10,
    )
    played = play(client, dict(seen.state), images, labels, _generator)
    return model, images, replace(seen, update=played.update, defense=specs, noise=None)


def _generator(site: str, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{site} {step}".encode()))


def attack(model: nn.Module, observation: Observation) -> Reconstruction:
    return attacks.create("first_linear")(observation, TOLD, model)


@pytest.mark.parametrize(
    ("defense", "least"),
    [
        ({"name": "gaussian_noise", "std": 1e-3}, 45),
        ({"name": "laplace_noise", "scale": 1e-3}, 43),
        ({"name": "local_dp", "epsilon": 3e3}, 25),
        ({"name": "dp_sgd", "noise_multiplier": 3e-3}, 25),
        ({"name": "partial_perturbation", "std": 1e-2}, 28),
        ({"name": "quantization", "levels": 64}, 25),
        ({"name": "outpost", "decay": 0.0}, 40),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_added_noise_leaves_an_image_that_is_never_called_certain(defense: dict[str, Any], least: float) -> None:
    model, images, observation = victim(defense)
    result = attack(model, observation)
    assert psnr(result.images, images, MNIST_STD) >= least
    assert result.details["determined"] == [True]
    assert result.details["certain"] == [False]
    [untold] = attacks.create("first_linear").run([replace(observation, defense=None)], ThreatModel(), model)
    told = psnr(result.images, images, MNIST_STD)
    assert isinstance(untold, NotApplicable) or psnr(untold.images, images, MNIST_STD) < told - 1


@pytest.mark.parametrize("std", [1e-4, 1e-3, 1.0])
@pytest.mark.parametrize("defense", ["gradient_dropout", "training_randomness"])
def test_what_was_not_replaced_is_found_exactly(defense: str, std: float) -> None:
    model, images, observation = victim({"name": defense, "std": std})
    result = attack(model, observation)
    assert psnr(result.images, images, MNIST_STD) >= 100
    assert result.details["certain"] == [True]
    assert 0.1 < result.details["entries_agreeing"] < 0.6


def test_what_was_rounded_at_random_is_weighed_by_what_it_is_found_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for bias in (True, False):
        model, images, observation = victim({"name": "quantization", "levels": 64}, bias=bias)
        truth = torch.cat([images.flatten().double(), torch.ones(1).double()])[: None if bias else -1]
        weighed = _off(Puzzle.of(observation, TOLD, model), truth)
        with monkeypatch.context() as patched:
            patched.setattr(noisy, "ENOUGH", float("inf"))
            assert weighed < 0.9 * _off(Puzzle.of(observation, TOLD, model), truth)


def _off(puzzle: Puzzle, truth: Tensor) -> float:
    """The squared sine of the angle between what is found and the truth."""
    found = denoise(puzzle, first_linear(puzzle))
    return 1 - float(torch.cosine_similarity(found.vector, truth, dim=0)) ** 2


@pytest.mark.parametrize("levels", [16, 4])
def test_gradients_are_matched_as_rounding_at_random_leaves_them_certain(levels: int) -> None:
    spec = {"name": "quantization", "levels": levels}
    model, images, observation = victim(spec, bias=False, dropout=0.0)
    attack = attacks.create("inverting_gradients", iterations=100)
    attack.compile = "never"
    told, blind = (
        psnr(attack(replace(observation, defense=granted), TOLD, model).images, images, MNIST_STD)
        for granted in ((spec,), None)
    )
    assert told >= blind + 1


def test_as_long_as_nothing_else_was_drawn_that_nobody_knows() -> None:
    """Masks that are left out make the simulated update another one than was rounded."""
    spec = {"name": "quantization", "levels": 16}
    model, _, observation = victim(spec, bias=False)
    blind, told, untold_rate = (
        attacks.create("inverting_gradients", iterations=20)(replace(observation, defense=granted), threat, model)
        for granted, threat in (
            (None, ThreatModel()),
            ((spec,), TOLD),
            ((spec,), replace(TOLD, dropout_rate="unknown")),
        )
    )
    torch.testing.assert_close(told.images, blind.images)
    torch.testing.assert_close(untold_rate.images, blind.images)
    sought = attacks.create("dropout_inversion", iterations=20)
    seeking, ignoring = (sought(replace(observation, defense=granted), TOLD, model) for granted in ((spec,), None))
    assert seeking.loss > 2 * ignoring.loss  # a deviance, and no cosine


def test_of_noise_alone_nothing_agrees() -> None:
    model, _, observation = victim({"name": "gradient_dropout", "p": 0.5})
    noise = {name: 1e-3 * torch.randn(v.shape, generator=_generator(name, 0)) for name, v in observation.update.items()}
    result = attack(model, replace(observation, update=noise))
    assert result.details["certain"] == [False]
    model, _, observation = victim({"name": "gaussian_noise"})
    with pytest.raises(NotApplicable, match=r"nothing in the gradient of hidden.* stands above the noise"):
        attack(model, replace(observation, update=noise))


def test_zeros_that_agree_with_anything_make_nothing_certain() -> None:
    draw = torch.Generator().manual_seed(0)
    delta, vector, noise = (torch.randn(shape, generator=draw).double() for shape in (80, 60, (80, 60)))
    delta[:40] = 0
    kept = torch.rand(80, 60, generator=draw) < 0.5
    matrix = torch.where(kept, torch.outer(delta, vector), 0.1 * noise)
    within, alone = (torch.full_like(matrix, variance) for variance in (1e-14, 0.01))
    found = of_those_that_agree(matrix, within, alone)
    assert found.sure
    assert float(torch.cosine_similarity(found.vector, vector, dim=0).abs()) > 1 - 1e-12
    replaced = torch.where(kept[:, 7], 0.0, 0.1 * noise[:, 7])
    matrix[:40, 7], matrix[40:, 7] = replaced[:40], 0.1 * noise[40:, 7]
    assert not of_those_that_agree(matrix, within, alone).sure


def test_a_random_sparsification_is_completed() -> None:
    model, images, observation = victim({"name": "random_sparsification", "keep": 0.1})
    result = attack(model, observation)
    assert result.details["route"] == "completion"
    assert psnr(result.images, images, MNIST_STD) >= 100


@pytest.mark.parametrize(
    ("first", "then", "least"),
    [
        (CLIPPED, {"name": "gaussian_noise"}, 38),
        ({"name": "gaussian_noise"}, CLIPPED, 38),
        (CLIPPED, {"name": "gradient_dropout"}, 100),
        ({"name": "gradient_dropout"}, {"name": "gaussian_noise", "std": 1e-5}, 60),
        ({"name": "gaussian_noise", "std": 1e-4}, {"name": "pruning", "keep": 0.3}, 38),
    ],
)
def test_compositions(first: dict[str, Any], then: dict[str, Any], least: float) -> None:
    model, images, observation = victim(first, then)
    assert psnr(attack(model, observation).images, images, MNIST_STD) >= least


def test_noise_on_a_weight_delta_is_that_of_a_gradient_divided_by_the_rate() -> None:
    local = LocalTraining(learning_rate=0.01)
    for defense, std in (({"name": "gaussian_noise", "std": 1e-5}, 1e-3), ({"name": "dp_sgd"}, 1.0)):
        model, images, observation = victim(defense, local=local)
        spread = Puzzle.of(observation, TOLD, model).spread
        assert spread is not None
        assert {round(float(value), 8) for value in spread.added.values()} == {std}
    model, images, observation = victim({"name": "gaussian_noise", "std": 1e-5}, local=local)
    assert psnr(attack(model, observation).images, images, MNIST_STD) >= 40


@pytest.mark.parametrize("defense", [{"name": "gaussian_noise"}, {"name": "gradient_dropout"}], ids=str)
def test_without_a_bias_black_and_white_say_how_long_the_image_is(defense: dict[str, Any]) -> None:
    model, images, observation = victim(defense, bias=False)
    result = attack(model, observation)
    assert psnr(result.images, images, MNIST_STD) >= 40
    assert result.details["certain"] == [False]


def test_the_scale_is_found_on_either_side_of_zero() -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.rand(400, generator=draw, dtype=torch.float64).mul(3).sub(1).clamp(0, 1)
    low, high = torch.full_like(pixels, -0.5), torch.full_like(pixels, 1.5)
    truth = low + pixels * (high - low)
    for factor in (0.02, -0.02):
        noise = 1e-4 * torch.randn(400, generator=draw, dtype=torch.float64)
        image, found = scaled(factor * truth + noise, torch.full_like(noise, 1e-4), low, high, anchor=None)
        assert found == pytest.approx(1 / factor, rel=2e-3)
        assert float((image - truth).square().mean().sqrt()) < 1e-4 / 0.02  # black and white pixels have no noise left


def test_the_true_image_leaves_the_noise_and_another_more() -> None:
    model, images, observation = victim({"name": "gradient_dropout"})
    form, (other, _) = attacks.create("first_linear"), mnist(3)
    left = form.unexplained(Puzzle.of(observation, TOLD, model), torch.cat([images, other[2:]]).double())
    assert left[0] < 1e-5
    assert left[1] > 0.1

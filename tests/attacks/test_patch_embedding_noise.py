"""A vision transformer's image from an update that lost digits: degraded, and saying by how much."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch
from attack_victims import observe
from patch_victims import changed, declined, noisy, psnr, seen, shallow, solve, tiny_vit, victim
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, ThreatModel
from fedsim import data, models
from fedsim.random import rng_for


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("level", [1e-5, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("ridge", [0.0, None])
def test_the_error_of_a_noisy_update_is_foretold(rate: float, level: float, ridge: float | None) -> None:
    model = shallow(rate, (3, 32, 32), seed=0)
    images, labels = victim((3, 32, 32))
    result = solve(noisy(seen(model, images, labels), level), model, ridge=ridge)
    foretold = -20 * math.log10(result.details["expected_error"])
    assert abs(psnr(result, images) - foretold) < 8
    assert result.details["certain"] == [foretold >= 40]


def test_a_ridge_helps_where_the_noise_drowns_the_weak_directions_and_is_never_certain() -> None:
    model = shallow(0.0, (3, 32, 32), seed=0)
    images, labels = victim((3, 32, 32))
    images = nn.functional.interpolate(images[..., ::8, ::8], scale_factor=8.0, mode="bilinear")
    observation = seen(model, images, labels)
    plain, damped = (solve(noisy(observation, 1e-2), model, ridge=ridge) for ridge in (0.0, 0.02))
    assert psnr(damped, images) >= psnr(plain, images) + 3
    clean = solve(observation, model, ridge=1e-6)
    assert psnr(clean, images) >= 60
    assert clean.details["certain"] == [False]
    with pytest.raises(ValueError, match=r"ridge = -1\.0 is not a number of at least 0"):
        attacks.create("patch_embedding", ridge=-1.0)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("level", [1e-2, 3e-2, 1e-1, 1.0])
def test_the_noise_itself_says_which_ridge(rate: float, level: float) -> None:
    model = shallow(rate, (3, 32, 32), seed=0)
    images, labels = victim((3, 32, 32))
    images = nn.functional.interpolate(images[..., ::8, ::8], scale_factor=8.0, mode="bilinear")
    observation = noisy(seen(model, images, labels), level)
    chosen = solve(observation, model)
    ridges = [0.0, *(10 ** (k / 4) for k in range(-16, 9))]
    assert psnr(chosen, images) >= max(psnr(solve(observation, model, ridge=ridge), images) for ridge in ridges) - 1
    assert chosen.details["ridge"] > 0
    assert chosen.details["certain"] == [False]
    assert (chosen.details["noise"] > 0.5) == (chosen.details["assumed"] is not None)


PHOTOS = {0.0: {"std 1e-3": 15, "1 %": 20, "bfloat16": 45}, 0.5: {"std 1e-3": 15, "1 %": 25, "bfloat16": 55}}


@pytest.mark.parametrize("rate", PHOTOS)
def test_noisy_updates_of_photos(rate: float) -> None:
    """Medians over 8 photos through the bundled ViT as it is; the mean image has 13.7 dB."""
    photos = data.load({"name": "photos"})
    chosen = torch.from_numpy(rng_for(0, "victims").permutation(len(photos.train_images))[:8].copy())
    images, labels = photos.normalise(photos.train_images[chosen].float()), photos.train_labels[chosen]
    fields = {"mean": photos.mean, "std": photos.std, "classes": len(photos.classes)}
    spec = {"name": "vit", "dropout": rate}
    model = models.build(spec, input_shape=(3, 32, 32), classes=len(photos.classes), seed=0)
    std = torch.tensor(photos.std).view(-1, 1, 1)

    def quality(guess: Tensor, truth: Tensor) -> float:
        return -10 * math.log10(float((std * (guess - truth)).square().mean()))

    spoils = {
        "std 1e-3": lambda o: changed(o, lambda name, v: v + 1e-3 * torch.randn(v.shape)),
        "1 %": lambda o: noisy(o, 0.01),
        "bfloat16": lambda o: changed(o, lambda name, v: v.bfloat16().float()),
        "weights in float16": lambda o: changed(o, lambda name, v: _returned(o, name, v, torch.float16)),
        "weights in bfloat16": lambda o: changed(o, lambda name, v: _returned(o, name, v, torch.bfloat16)),
    }
    found: dict[str, list[float]] = {name: [] for name in spoils}
    for i, (image, label) in enumerate(zip(images, labels)):
        observation = observe(model, image[None], label[None], seed=i, **fields)
        torch.manual_seed(1000 + i)
        for name, spoil in spoils.items():
            result = solve(spoil(observation), model)
            found[name].append(quality(result.images, image))
            if name.startswith("weights"):
                assert result.details["certain"] == [False]
                assert "noise" in result.details["assumed"] or "mean image" in result.details["assumed"]
                assert found[name][-1] >= quality(torch.zeros_like(image), image) - 0.05
    for name, least in PHOTOS[rate].items():
        assert statistics.median(found[name]) >= least, name


def _returned(observation: Observation, name: str, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient as it shows in weights that were returned in this type after a step of 0.1."""
    sent = observation.state[name]
    return ((sent - 0.1 * gradient).to(dtype).float() - sent) / -0.1


def test_a_delta_rounded_to_bfloat16_is_weighted_by_its_rounding() -> None:
    """Its entries' errors are shares of their sizes, so the equations differ in precision."""
    dataset = data.load({"name": "photos"})
    model = models.build({"name": "vit", "dropout": 0.0}, input_shape=(3, 32, 32), classes=10, seed=0)
    chosen = rng_for(0, "victims").permutation(len(dataset.train_images))[:3].copy()
    photos, scores = dataset.normalise(dataset.train_images[torch.from_numpy(chosen)]), []
    for photo in photos:
        observation = observe(model, photo[None], torch.tensor([0]), mean=dataset.mean, std=dataset.std)
        rounded = {name: (-0.1 * value).bfloat16().float() for name, value in observation.update.items()}
        delta = replace(observation, update=rounded, kind="delta", local=LocalTraining(learning_rate=0.1))
        wrong = (solve(delta, model).images[0] - photo) * torch.tensor(dataset.std).view(-1, 1, 1)
        scores.append(-10 * math.log10(float(wrong.square().mean())))
    assert statistics.median(scores) >= 51, scores


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_noise_does_not_pass_several_images_off_as_one(rate: float) -> None:
    """As long as they show in it at all; the same noise on one image's update is no reason to decline."""
    for seed in range(4):
        model = shallow(rate, (3, 32, 32), seed=seed)
        images, labels = victim((3, 32, 32), 2, seed)
        two, one = (
            replace(noisy(seen(model, x, labels[: len(x)], seed=seed), 1e-2), batch_size=None)
            for x in (images, images[:1])
        )
        assert "too noisy to tell" in declined(two, model)
        assert psnr(solve(one, model), images[:1]) >= 15
        steps = seen(model, images, labels, local=LocalTraining(steps=2, learning_rate=0.05), seed=seed)
        assert "different images" in declined(noisy(steps, 1e-3), model)


def test_what_the_bias_does_not_show_is_not_noise() -> None:
    model = tiny_vit(0.5)
    observation = seen(model, *victim((1, 8, 8)))
    foreign = changed(observation, lambda n, v: v.flip(0) if n == "patch_embedding.weight" else v)
    assert "not that of one image" in declined(foreign, model)


def test_half_precision_weights_are_degraded_and_said_so() -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.5)
    images, labels = victim((1, 8, 8))
    observation = seen(model, images, labels, local=LocalTraining(learning_rate=0.1))
    state = observation.state

    def rounded(name: str, value: Tensor) -> Tensor:
        return (state[name] + value).bfloat16().float() - state[name]

    result = solve(changed(observation, rounded), model)
    foretold = -20 * math.log10(result.details["expected_error"])
    assert abs(psnr(result, images) - foretold) < 8
    assert result.details["certain"] == [foretold >= 40]


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_pruned_update_is_never_called_certain(share: float) -> None:
    torch.manual_seed(0)
    model = tiny_vit(0.0)
    images, labels = victim((1, 8, 8))

    def prune(_: str, value: Tensor) -> Tensor:
        threshold = value.abs().flatten().kthvalue(max(1, int(share * value.numel()))).values
        return value * (value.abs() > threshold)

    [result] = attacks.create("patch_embedding").run(
        [changed(seen(model, images, labels), prune)], ThreatModel(), model
    )
    assert isinstance(result, NotApplicable) or result.details["certain"] == [False] or psnr(result, images) >= 40

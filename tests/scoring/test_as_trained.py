"""A reconstruction of a turned image is one of the image; one of a mixture is compared with the image all the same."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
import torch
from torch import nn

import defenses
from defenses.client.round import ClientRound, Played, play, replay
from defenses.client.training import LocalTraining
from fedsim.scoring.matching import match
from fedsim.scoring.score import score_victim
from fedsim.truth import Truth, pack, together, unpack

MEAN, STD = (0.5,), (0.25,)


def pixels(count: int = 4) -> torch.Tensor:
    """Bright above and to the left, so that no turn of one is near another."""
    generator = torch.Generator().manual_seed(1)
    ramp = torch.linspace(0, 1, 12)
    shape = (0.6 * ramp[:, None] + 0.3 * ramp[None]).expand(count, 1, 12, 12)
    return ((shape + 0.1 * torch.rand(count, 1, 12, 12, generator=generator)) * 255).round().to(torch.uint8)


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images / 255 - MEAN[0]) / STD[0]


EXACT = 100.0
"""dB: all that float32 has."""


def client(parts: list[dict], **local) -> tuple[Truth, Played, ClientRound]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 5))
    training = LocalTraining(**local)
    round = ClientRound(
        model=model, local=training, defense=defenses.compose(parts), share="delta", batch_size=2, classes=5
    )
    images = pixels()
    labels = torch.arange(4)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    played = play(
        round,
        state,
        normalised(images),
        labels,
        lambda site, step: torch.Generator().manual_seed(zlib.crc32(f"{site} {step}".encode())),
        additive=False,
    )
    return Truth.of_round(images, labels, played), played, round


def scored(truth: Truth, answer: torch.Tensor, metrics=("psnr", "ssim")) -> list[dict]:
    return score_victim(
        original=truth.images,
        reconstruction=answer,
        mean=MEAN,
        std=STD,
        true_labels=truth.labels,
        trained=truth.trained,
        views=truth.views,
        metrics=metrics,
    ).rows


OASIS, MOVED = {"name": "oasis"}, {"name": "augmentation", "shift": 0}
MIXED, NOISY = {"name": "mixup", "alpha": 50.0}, {"name": "input_noise", "std": 2.0}


def test_what_an_undefended_client_trained_on_is_what_it_has():
    truth, *_ = client([{"name": "clip"}], steps=2)
    assert truth.trained is truth.views is None
    [row, *_] = scored(truth, normalised(truth.images))
    assert row["psnr"] > EXACT
    assert row["psnr_original"] is row["psnr_trained"] is row["ssim_original"] is row["ssim_trained"] is None


@pytest.mark.parametrize("local", [{"steps": 2}, {"epochs": 3}])
def test_a_turned_image_is_the_image(local):
    truth, *_ = client([OASIS], **local)
    assert truth.views.shape == (4, 4 * local.get("epochs", 1), 1, 12, 12)
    turned = torch.rot90(normalised(truth.images), 1, (2, 3))[[2, 0, 3, 1]]
    for row in scored(truth, turned):
        assert row["psnr"] == row["psnr_trained"] > EXACT
        assert row["bit_exact"]
        assert row["leaked_ssim"]
        assert row["psnr_original"] < 15
        assert row["ssim_original"] < 0.5
    plain = replace(truth, views=None)
    assert all(row["psnr"] < 15 for row in scored(plain, turned))
    for row in scored(truth, normalised(truth.images)):
        assert row["psnr"] >= row["psnr_original"] > EXACT
        assert row["bit_exact"]


def test_a_mirrored_image_is_the_image_and_each_has_its_own():
    truth, *_ = client([MOVED], epochs=4)
    flips = normalised(truth.images).flip(3)
    as_they_are = torch.isclose(truth.views, normalised(truth.images)[:, None], atol=1e-5).flatten(2).all(2)
    mirrored = torch.isclose(truth.views, flips[:, None], atol=1e-5).flatten(2).all(2)
    assert torch.equal(as_they_are, ~mirrored)
    assert as_they_are.any()
    assert mirrored.any()
    for row, met in zip(scored(truth, flips), mirrored.any(1)):
        assert (row["psnr"] > EXACT) == bool(met)  # an image that was never mirrored is not taken for its mirror image


@pytest.mark.parametrize("parts", [[MIXED], [NOISY]])
def test_a_mixture_or_noise_is_not_the_image(parts):
    truth, *_ = client(parts, steps=2)
    assert truth.views is None
    within = truth.trained[:, 0].clamp(normalised(torch.tensor(0)), normalised(torch.tensor(255)))
    for row in scored(truth, within[[1, 0, 3, 2]]):
        assert row["psnr_trained"] > EXACT
        assert row["ssim_trained"] == pytest.approx(1)
        assert row["psnr"] < 40
        assert not row["bit_exact"]
        assert row["psnr_original"] is None


def test_noise_on_a_turned_image_is_told_from_its_turn():
    """In either order the view is the turned image without the noise, with the very turn that was drawn."""
    for parts in ([MOVED, NOISY], [NOISY, MOVED]):
        truth, *_ = client(parts, steps=2)
        alone, *_ = client([MOVED], steps=2)
        assert torch.equal(truth.views, alone.views)
        assert not torch.allclose(truth.trained, truth.views, atol=0.5)


def test_an_answer_of_fewer_images_is_compared_as_far_as_it_goes():
    truth, *_ = client([MIXED], steps=2)
    rows = scored(truth, truth.trained[2:3, 0])
    assert sum(row["psnr"] is not None for row in rows) == 1
    assert [row["psnr_trained"] is not None for row in rows].count(True) == 1


def test_it_draws_nothing_twice():
    """Looking at what it trained on changes neither what a client draws nor what it sends."""
    parts = [MOVED, MIXED, OASIS]
    truth, played, round = client(parts, steps=2)
    assert [len(value) for value in truth.noise.values()] == [2, 4]  # a weight a step, a partner each
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(144, 5))
    state = dict(bare.state_dict())
    images = truth.trained.transpose(0, 1)
    batches = torch.cat([images[:, 2 * step : 2 * step + 2].reshape(-1, 1, 12, 12) for step in (0, 1)])
    by_hand = replace(round, model=bare, defense=defenses.compose([]))
    weight, order = truth.noise["mixup:weight"], truth.noise["mixup:permutation"]
    labels = torch.eye(5)[truth.labels]
    mixed = [
        share * labels[2 * step :][:2] + (1 - share) * labels[2 * step :][:2][order[2 * step :][:2]]
        for step, share in enumerate(weight)
    ]
    targets = torch.cat([one.repeat(4, 1) for one in mixed])
    expected = replay(by_hand, state, batches, targets).update
    torch.testing.assert_close(played.update, expected, rtol=1e-4, atol=1e-6)


def test_the_envelope_keeps_it_and_a_sum_has_that_of_all():
    truth, *_ = client([OASIS], steps=2)
    again = unpack(pack(truth))
    assert torch.equal(again.trained, truth.trained)
    assert torch.equal(again.views, truth.views)
    both = together([truth, replace(truth, trained=truth.trained + 1)], steps=2)
    assert both.trained.shape == (8, 4, 1, 12, 12)
    assert torch.equal(both.trained[2:4], truth.trained[:2] + 1)
    assert torch.equal(both.images[2:4], truth.images[:2])
    plain, *_ = client([], steps=2)
    assert together([truth, plain], steps=2).views is None


def test_the_nearest_of_several_counts_in_the_assignment():
    several = torch.stack([torch.stack([torch.full((1, 2, 2), v) for v in row]) for row in ([0.0, 0.9], [0.5, 0.4])])
    answer = torch.stack([torch.full((1, 2, 2), v) for v in (0.45, 1.0)])
    assert match(several, answer) == [1, 0]
    assert match(several[:, 0], answer) == [0, 1]


def test_a_batch_may_grow_in_each_step_of_a_model_that_draws():
    """The masks are of all that passes through, in each step of its own."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(144, 9), nn.Dropout(0.5), nn.Linear(9, 5))
    model = defenses.stochastic.convert(plain)
    round = ClientRound(
        model=model.double(), local=LocalTraining(steps=2), defense=defenses.compose([OASIS]), share="delta", classes=5
    )
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = normalised(pixels()).double(), torch.arange(4)
    played = play(round, state, images, labels, lambda site, step: torch.Generator().manual_seed(step))
    [masks] = played.drawn.values()
    assert masks.shape == (16, 9)
    again = replay(round, state, images, labels, played.drawn)
    torch.testing.assert_close(again.update, played.update, rtol=1e-9, atol=1e-12)

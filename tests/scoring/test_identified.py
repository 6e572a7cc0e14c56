"""Whether a reconstruction identifies the client's image among others of the data set."""

from __future__ import annotations

import pytest
import torch

from fedsim import data
from fedsim.scoring.identify import Candidates, candidates_of
from fedsim.scoring.score import score_victim


@pytest.fixture(scope="module")
def photographs():
    return data.load({"name": "photos"}).train_images[:24]


def scored(original, reconstruction, candidates, metrics=("psnr", "lpips")):
    channels = original.shape[1]
    rows = score_victim(
        original=original,
        reconstruction=reconstruction,
        mean=[0.0] * channels,
        std=[1.0] * channels,
        true_labels=torch.zeros(len(original)),
        candidates=candidates,
        metrics=metrics,
    ).rows
    return [(row["identified"], row["identified_features"]) for row in rows]


def test_a_noisy_copy_identifies_an_image_and_the_mean_of_all_does_not(photographs):
    """The image is among the candidates itself: it is no other one."""
    candidates, original = Candidates(photographs), photographs[:2]
    pixels = original / 255
    noisy = pixels + 0.05 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    mean = (photographs / 255).mean(0).expand_as(pixels)
    assert scored(original, noisy, candidates) == [(True, True)] * 2
    assert scored(original, mean, candidates) == [(False, False)] * 2


def test_of_a_darker_copy_features_say_more_than_pixels(photographs):
    """PSNR and nearness in pixels are lost with the brightness that a normalisation hides; what is seen is not."""
    bright = photographs.float().flatten(1).mean(1).argsort(descending=True)[:6]
    found = scored(photographs[bright], 0.3 * photographs[bright] / 255, Candidates(photographs))
    assert sum(bool(features) for _, features in found) > sum(bool(pixels) for pixels, _ in found)


def test_without_candidates_or_lpips_there_is_no_answer(photographs):
    original, exact = photographs[:1], photographs[:1] / 255
    assert scored(original, exact, None) == [(None, None)]
    assert scored(original, exact, Candidates(photographs), metrics=("psnr",)) == [(True, None)]
    assert scored(original, exact, Candidates(original), metrics=("psnr",)) == [(None, None)]  # there is no other


def test_an_image_without_a_reconstruction_has_no_answer(photographs):
    original = photographs[:2]
    found = scored(original, original[:1] / 255, Candidates(photographs), metrics=("psnr",))
    assert found == [(True, None), (None, None)]


def test_candidates_are_a_fixed_thousand_of_the_training_images():
    digits = data.load({"name": "mnist"})
    candidates = candidates_of(digits)
    assert candidates is candidates_of(digits)
    assert len(candidates.images) == 1_000
    assert torch.equal(candidates.images, Candidates.of(digits).images)

"""What closed forms make of the range of pixels: how far an image leaves it, and how large one of no scale may be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from attacks.closed_form.certify import filling, in_range, outside

SEEN = SimpleNamespace(mean=(0.2, 0.6), std=(0.5, 0.25), input_shape=(2, 3, 5))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - torch.tensor(SEEN.mean).view(2, 1, 1)) / torch.tensor(SEEN.std).view(2, 1, 1)


def test_an_image_is_as_far_outside_as_its_worst_pixel() -> None:
    pixels = torch.full((4, 2, 3, 5), 0.5)
    pixels[1, 0, 2, 4], pixels[1, 1, 0, 0] = 1.25, 1.125
    pixels[2, 1, 1, 1] = -0.5
    pixels[3, 0, 0, 0], pixels[3, 1, 2, 4] = 0.0, 1.0
    found = outside(normalised(pixels), SEEN)
    torch.testing.assert_close(found, torch.tensor([0, 0.25, 0.5, 0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(in_range(normalised(pixels), SEEN), normalised(pixels.clamp(0, 1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [3.0, -0.02])
def test_an_image_of_no_scale_is_made_as_large_as_pixels_may_be(scale: float) -> None:
    torch.manual_seed(0)
    pixels = torch.rand(6, 2, 3, 5)
    images = scale * normalised(pixels)
    divisors = filling(images, images.flatten(1), SEEN)  # the layer is active where an image is as it is
    found = images / divisors.view(-1, 1, 1, 1)
    shown = found * torch.tensor(SEEN.std).view(2, 1, 1) + torch.tensor(SEEN.mean).view(2, 1, 1)
    assert shown.min() >= -1e-6
    assert shown.max() <= 1 + 1e-6
    ends = torch.minimum(shown.flatten(1).amin(1), 1 - shown.flatten(1).amax(1))
    torch.testing.assert_close(ends, torch.zeros(6), rtol=0, atol=1e-5)  # one pixel is black, or white

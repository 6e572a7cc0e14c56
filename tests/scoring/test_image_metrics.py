"""The image metrics, each against something known without it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch.nn import functional as F

from fedsim import data
from fedsim.scoring.lpips import lpips
from fedsim.scoring.metrics import METRICS, mse, psnr, ssim

DEV_DATA = Path(os.environ.get("FEDSIM_DEV_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_mse_and_psnr_of_a_known_difference():
    grey = torch.full((2, 3, 8, 8), 0.5)
    other = grey + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert mse(grey, other).tolist() == pytest.approx([1e-2, 1e-4], rel=1e-4)
    assert psnr(grey, other).tolist() == pytest.approx([20, 40], abs=1e-3)


def test_psnr_of_the_same_image_is_the_cap():
    assert psnr(images(2, 1, 8, 8), images(2, 1, 8, 8)).tolist() == [160.0, 160.0]
    tiny = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64)
    assert psnr(tiny, tiny + 1e-9).tolist() == [160.0]


@pytest.mark.parametrize("metric", [mse, psnr, ssim, lpips])
def test_pixels_outside_the_range_count_as_clamped(metric):
    original = images(2, 3, 32, 32)
    wild = 3 * images(2, 3, 32, 32, seed=1) - 1
    assert torch.equal(metric(original, wild), metric(original, wild.clamp(0, 1)))
    assert not torch.equal(metric(original, wild), metric(original, images(2, 3, 32, 32, seed=1)))


def plain_ssim(a, b):
    """Equation 13 of Wang et al. (2004) by convolution, over the places where the whole 11 x 11 window fits."""
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    line = (-(offsets**2) / (2 * 1.5**2)).exp()
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def mean(x):
        return F.conv2d(x[:, None], window)[:, 0]

    a, b = a.double(), b.double()
    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2, mean(a * b) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))).mean()


def test_ssim_is_the_equation_of_its_paper():
    a = images(3, 3, 32, 28)
    b = (a + 0.2 * images(3, 3, 32, 28, seed=1)).clamp(0, 1)
    expected = [float(plain_ssim(x, y)) for x, y in zip(a, b)]
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("side", [1, 2, 5, 8, 10, 11])
def test_ssim_fits_its_window_to_a_small_image(side):
    a = images(1, 3, side, side + 3)
    assert ssim(a, a).tolist() == pytest.approx([1.0])
    assert float(ssim(a, 1 - a)) < 0.9


def test_lpips_of_the_same_image_is_0():
    for shape in ((2, 1, 28, 28), (2, 3, 32, 32), (1, 3, 80, 70)):
        assert lpips(images(*shape), images(*shape)).tolist() == [0.0] * shape[0]


def smooth_pair():
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    ramps = torch.stack([y, x, y * x])[None]
    waves = torch.stack([(8 * y).sin().abs(), (8 * x).cos().abs(), y * x])[None]
    return ramps, waves


def test_lpips_of_a_fixed_pair():
    """Measured with the code that gives the published values on the authors' pair, the next test."""
    ramps, waves = smooth_pair()
    assert float(lpips(ramps, waves)) == pytest.approx(0.5870, abs=5e-4)
    assert float(lpips(waves, ramps)) == pytest.approx(0.5870, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "expected"), [("shifted", 0.13462), ("inverted", 0.36519), ("grey", 0.84304), ("channels", 0.24739)]
)
def test_lpips_of_real_photographs_is_that_of_its_authors_package(name, expected):
    """Expected: `lpips.LPIPS(net="alex")` 0.1.4 with the float32 trunk, which gives 0.7219 on its authors' pair."""
    astronaut = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None] / 255
    face, moved = (astronaut[:, :, y : y + 96, x : x + 96] for y, x in ((70, 180), (75, 187)))
    grey, turned = torch.full_like(face, 0.5), face[:, [2, 0, 1]]
    others = {"shifted": moved, "inverted": 1 - face, "grey": grey, "channels": turned}
    assert float(lpips(face, others[name])) == pytest.approx(expected, abs=1e-4)


@pytest.mark.skipif(not (DEV_DATA / "lpips_ref").is_dir(), reason="the authors' reference pair is not here")
def test_lpips_gives_the_published_values_on_its_authors_pair():
    def picture(name):
        pixels = np.array(Image.open(DEV_DATA / "lpips_ref" / f"{name}.png"))
        return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255

    reference = picture("ex_ref")
    assert float(lpips(reference, picture("ex_p0"))) == pytest.approx(0.7219, abs=1e-4)
    assert float(lpips(reference, picture("ex_p1"))) == pytest.approx(0.1376, abs=1e-4)


def test_lpips_repeats_grey_and_enlarges_small_images_bilinearly():
    a, b = images(2, 1, 28, 40), images(2, 1, 28, 40, seed=1)
    colour = lpips(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1))
    assert torch.equal(lpips(a, b), colour)
    large = [F.interpolate(x, size=(64, 91), mode="bilinear", align_corners=False) for x in (a, b)]
    assert lpips(*large).tolist() == pytest.approx(colour.tolist(), rel=1e-5)


def test_lpips_does_not_depend_on_what_else_is_in_the_batch():
    a, b = images(40, 1, 28, 28), images(40, 1, 28, 28, seed=1)
    assert lpips(a, b)[37:39].tolist() == pytest.approx(lpips(a[37:39], b[37:39]).tolist(), rel=1e-5)
    assert lpips(a[:0], b[:0]).shape == (0,)


@pytest.mark.parametrize("metric", [psnr, ssim, lpips])
def test_more_noise_scores_worse_on_real_photographs(metric):
    photographs = data.load({"name": "photos"}).train_images[::100] / 255
    noise = torch.randn(photographs.shape, generator=torch.Generator().manual_seed(0))
    scores = torch.stack([metric(photographs, photographs + std * noise) for std in (0.01, 0.05, 0.2)])
    steps = scores.diff(dim=0) * (1 if metric is lpips else -1)
    assert bool((steps > 0).all()), scores


def test_every_metric_says_in_one_line_what_it_is():
    assert list(METRICS) == ["mse", "psnr", "ssim", "lpips"]
    for metric in METRICS.values():
        line = (metric.__doc__ or "").splitlines()[0]
        assert 20 < len(line) < 130


def test_scoring_loads_neither_torchvision_nor_the_lpips_package():
    code = (
        "import sys, torch; from fedsim.scoring.lpips import lpips; x = torch.rand(1, 3, 32, 32); lpips(x, x);"
        "print([name for name in ('torchvision', 'lpips') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_psnr_is_10_log10_of_1_over_mse():
    a, b = images(4, 3, 8, 8), images(4, 3, 8, 8, seed=1)
    assert psnr(a, b).tolist() == pytest.approx([10 * math.log10(1 / error) for error in mse(a, b).tolist()])

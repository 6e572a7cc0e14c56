"""How alike two images are. Every metric clamps to [0, 1] first: what a viewer would see."""

from __future__ import annotations

from collections.abc import Callable

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from fedsim.scoring.lpips import lpips
from fedsim.table import PSNR_CAP_ROW

Metric = Callable[[Tensor, Tensor], Tensor]


def mse(original: Tensor, reconstruction: Tensor) -> Tensor:
    """mean squared error of pixels in [0, 1]; 0 is exact

    Shape: (B, C, H, W) and the same -> (B,) float64.
    """
    return (_clamped(original) - _clamped(reconstruction)).square().flatten(1).mean(1)


def psnr(original: Tensor, reconstruction: Tensor) -> Tensor:
    """peak signal-to-noise ratio, `-10 log10(mse)` in dB, at most 160; above 19 the image counts as leaked

    Shape: (B, C, H, W) and the same -> (B,) float64.
    """
    return (-10 * mse(original, reconstruction).log10()).clamp(max=PSNR_CAP_ROW)


def ssim(original: Tensor, reconstruction: Tensor) -> Tensor:
    """structural similarity (Wang et al., 2004), Gaussian window of sigma 1.5; 1 is exact, from 0.6 it counts as leaked

    The 11 x 11 window of the paper, or the largest odd one that fits into a smaller image. Channels are averaged.

    Shape: (B, C, H, W) and the same -> (B,) float64.
    """
    side = min(11, *original.shape[2:])
    window = side if side % 2 else side - 1
    pairs = zip(_clamped(original).numpy(), _clamped(reconstruction).numpy())
    values = [
        structural_similarity(
            a,
            b,
            win_size=window,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=0,
        )
        for a, b in pairs
    ]
    return torch.tensor(values, dtype=torch.float64)


METRICS: dict[str, Metric] = {"mse": mse, "psnr": psnr, "ssim": ssim, "lpips": lpips}


def _clamped(images: Tensor) -> Tensor:
    return images.detach().cpu().double().clamp(0, 1)

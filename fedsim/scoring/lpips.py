"""LPIPS (Zhang et al., CVPR 2018), version 0.1 with the AlexNet trunk, from files that are installed.

The `lpips` package cannot be imported here: it imports torchvision, whose registry build breaks beside a CPU build of
torch, and downloads the trunk. So its calibrated linear heads are read from the installed package as a file, the
trunk's convolutions are package data (float16), and the distance is computed below. On the authors' reference pair it
gives the published 0.7219 and 0.1376.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional as F

SMALLEST = 64
# What ImageNet's normalisation becomes for pixels in [-1, 1], as the heads were calibrated.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# AlexNet's convolutions by their index in torchvision's `features`: (stride, padding). Pooled before the 2nd and 3rd.
CONVOLUTIONS = {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}
POOLED_BEFORE = (3, 6)
PLACES = 3  # of what is kept of each layer, down and across
CHUNK = 32  # images at once: the activations of a large batch need not stand in memory together


@torch.no_grad()
def lpips(original: Tensor, reconstruction: Tensor) -> Tensor:
    """learned perceptual distance (Zhang et al., CVPR 2018), calibrated AlexNet v0.1; 0 is exact

    Pixels are clamped to [0, 1]. A grey image is repeated to three channels. An image whose shorter side is under 64
    pixels is enlarged bilinearly until that side has 64, as AlexNet sees nothing of 28 pixels; so the values of small
    images compare with one another, and not with those of large ones.

    Shape: (B, 1 or 3, H, W) and the same -> (B,) float64.
    """
    pairs = zip(original.split(CHUNK), reconstruction.split(CHUNK))
    return torch.cat([_distance(_prepared(a), _prepared(b)) for a, b in pairs] or [torch.zeros(0)]).double()


@torch.no_grad()
def layout(images: Tensor) -> Tensor:
    """Features (B, F) of images (B, 1 or 3, H, W) in [0, 1]: those of all five layers of the trunk, each place's of
    unit length, averaged over a grid of 3 x 3 places. Their squared distance tells images apart as LPIPS does, and so
    few can be kept of many images.
    """
    parts = []
    for part in images.split(CHUNK):
        layers = [F.adaptive_avg_pool2d(_unit(f), PLACES).flatten(1) for f in _features(_prepared(part))]
        parts.append(torch.cat(layers, dim=1))
    return torch.cat(parts)


def _prepared(images: Tensor) -> Tensor:
    images = images.detach().cpu().float().clamp(0, 1)
    images = images.expand(-1, 3, -1, -1)
    shorter = min(images.shape[2:])
    if shorter < SMALLEST:
        size = [round(side * SMALLEST / shorter) for side in images.shape[2:]]
        images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    return (2 * images - 1 - torch.tensor(SHIFT).view(3, 1, 1)) / torch.tensor(SCALE).view(3, 1, 1)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared differences of unit-length features, weighted by the heads, averaged over places, summed over layers."""
    total = torch.zeros(len(a))
    for head, f, g in zip(_heads(), _features(a), _features(b)):
        total += F.conv2d((_unit(f) - _unit(g)).square(), head).mean((1, 2, 3))
    return total


def _unit(features: Tensor) -> Tensor:
    return features / (features.norm(dim=1, keepdim=True) + 1e-10)


def _features(x: Tensor) -> list[Tensor]:
    trunk, found = _trunk(), []
    for index, (stride, padding) in CONVOLUTIONS.items():
        if index in POOLED_BEFORE:
            x = F.max_pool2d(x, kernel_size=3, stride=2)
        weight, bias = trunk[f"features.{index}.weight"], trunk[f"features.{index}.bias"]
        x = F.conv2d(x, weight, bias, stride=stride, padding=padding).relu()
        found.append(x)
    return found


@cache
def _trunk() -> dict[str, Tensor]:
    content = files("fedsim").joinpath("assets/lpips_alexnet_fp16.safetensors").read_bytes()
    return {name: tensor.float() for name, tensor in load(content).items()}


@cache
def _heads() -> list[Tensor]:
    package = find_spec("lpips")  # finds the package without importing it
    if package is None or package.origin is None:
        raise RuntimeError("the package `lpips` is not installed: pip install lpips")
    file = Path(package.origin).parent / "weights" / "v0.1" / "alex.pth"
    heads = torch.load(file, weights_only=True, map_location="cpu")
    return [heads[f"lin{layer}.model.1.weight"] for layer in range(len(CONVOLUTIONS))]

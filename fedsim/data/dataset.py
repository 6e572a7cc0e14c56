"""What every data source returns: labelled uint8 images in a train and a test part, and how a model sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fedsim.random import rng_for

PUBLIC_IMAGES = 256


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images. Pixels stay uint8; `normalise` gives the units that models and attacks work in.

    Args:
        name: the source's name, as in a scenario.
        train_images, test_images: uint8 (N, C, H, W); the test part may be empty, (0, C, H, W).
        train_labels, test_labels: int64 (N,), indices into `classes`.
        classes: the classes' names.
        mean, std: per channel, for pixels in [0, 1]. They are part of the data set and public.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @cached_property
    def public(self) -> Tensor:
        """Images (N, C, H, W) of the test part, which no client holds, in normalised units: at most `PUBLIC_IMAGES`."""
        chosen = torch.linspace(0, max(len(self.test_images) - 1, 0), min(PUBLIC_IMAGES, len(self.test_images))).long()
        return self.normalise(self.test_images[chosen])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that the data set holds: other pixels, labels, split or constants, another fingerprint."""
        digest = hashlib.sha256(repr((self.name, self.classes, self.mean, self.std)).encode())
        for tensor in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to float32 `(pixel / 255 - mean) / std`."""
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return (images.to(torch.float32) / 255 - mean) / std


def pixels(images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Images (N, C, H, W) in normalised units as uint8 (N, H, W, C): `Dataset.normalise` undone, and clamped."""
    scale, shift = torch.tensor(std).view(-1, 1, 1), torch.tensor(mean).view(-1, 1, 1)
    shown = ((images * scale + shift).clamp(0, 1) * 255).round().to(torch.uint8)
    return shown.permute(0, 2, 3, 1).contiguous().numpy()


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images (N, C, H, W), for pixels in [0, 1].

    Counted from the histogram of the 256 values, so that no float copy of the images is made. A channel without any
    variation gets a deviation of 1: normalising it must not divide by zero.
    """
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        counts = np.bincount(channel.numpy().ravel(), minlength=256)
        mean = float(np.average(values, weights=counts))
        deviation = float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
        means.append(mean)
        deviations.append(deviation if deviation > 0 else 1.0)
    return tuple(means), tuple(deviations)


def stratified_split(labels: Tensor, test_fraction: float) -> tuple[Tensor, Tensor]:
    """Shuffled indices of a train and a test part: the same share of every class, and always the same split."""
    order = torch.from_numpy(rng_for(0, "test split").permutation(len(labels)))
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = order[labels[order] == label]
        is_test[members[: round(test_fraction * len(members))]] = True
    return order[~is_test[order]], order[is_test[order]]

"""From arrays of images and labels to a `Dataset`: shared by the sources that bring their own pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedsim.data.dataset import Dataset, channel_statistics, stratified_split
from fedsim.data.resize import resize
from fedsim.errors import BadInput

Part = tuple[np.ndarray, np.ndarray]
"""uint8 images (N, H, W), (N, H, W, 1) or (N, H, W, 3), and integer labels (N,)."""


def build(
    name: str,
    train: Part,
    test: Part | None,
    *,
    classes: Sequence[str],
    image_size: int | None,
    test_fraction: float,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Dataset:
    """Resize, split where the source has no test part, and compute the channel statistics where none are given."""
    images, labels = _tensors(train, image_size)
    if test is not None:
        test_images, test_labels = _tensors(test, image_size)
    else:
        train_indices, test_indices = stratified_split(labels, test_fraction)
        test_images, test_labels = images[test_indices], labels[test_indices]
        images, labels = images[train_indices], labels[train_indices]
    if len(images) == 0:
        raise BadInput(f"data: test_fraction {test_fraction} leaves no image of {name} to train on")
    mean, std = statistics or channel_statistics(images)
    return Dataset(name, images, labels, test_images, test_labels, tuple(classes), mean, std)


def _tensors(part: Part, image_size: int | None) -> tuple[Tensor, Tensor]:
    images, labels = part
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    images = resize(images, image_size)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))

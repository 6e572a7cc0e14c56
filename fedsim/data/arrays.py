"""From arrays of images and labels to a `Dataset`: shared by the sources that bring their own pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedsim.data.dataset import Dataset, channel_statistics, stratified_split
from fedsim.data.resize import resize
from fedsim.errors import BadInput, caution

Part = tuple[np.ndarray, np.ndarray]
"""uint8 images (N, H, W), (N, H, W, 1) or (N, H, W, 3), and integer labels (N,)."""

MOST_UNNAMED = 32_768
"""Classes that labels alone may ask for, where there are fewer images: a label that is no index (an identity number, a
date) would make a model with millions of outputs."""


def build(
    name: str,
    train: Part,
    test: Part | None,
    *,
    classes: Sequence[str] | None,
    source: str | None = None,
    image_size: int | None,
    test_fraction: float,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Dataset:
    """Resize, split where the source has no test part, and compute the channel statistics where none are given.

    Args:
        name: of the data set.
        classes: their names; None counts them by the labels.
        source: what messages name: the file, folder or data set that the labels come from.

    Raises:
        BadInput: a label that is no index of a class, or nothing left to train on.
    """
    source = source or name
    classes = _counted(source, train, test) if classes is None else classes
    highest = max(_highest(part) for part in (train, test) if part is not None)
    if highest >= len(classes):
        raise BadInput(f"{source}: label {highest}, but `classes` names only {len(classes)} (labels start at 0)")
    images, labels = _tensors(train, image_size)
    if test is not None:
        test_images, test_labels = _tensors(test, image_size)
    else:
        train_indices, test_indices = stratified_split(labels, test_fraction)
        test_images, test_labels = images[test_indices], labels[test_indices]
        images, labels = images[train_indices], labels[train_indices]
    if len(images) == 0:
        raise BadInput(f"data.test_fraction: {test_fraction} leaves no image of {name} to train on")
    if images.max() <= 1:
        caution(f"{source}: no pixel is above 1, of 255: all images are black; multiply pixels of 0 and 1 by 255")
    _say_untrained(source, labels, test_labels, classes)
    mean, std = statistics or channel_statistics(images)
    return Dataset(name, images, labels, test_images, test_labels, tuple(classes), mean, std)


def _highest(part: Part) -> int:
    return int(part[1].max(initial=0))


def _counted(source: str, train: Part, test: Part | None) -> list[str]:
    """The classes 0 to the highest label."""
    highest = max(_highest(part) for part in (train, test) if part is not None)
    most = max(MOST_UNNAMED, sum(len(part[1]) for part in (train, test) if part is not None))
    if highest >= most:
        raise BadInput(
            f"{source}: label {highest} would make {highest + 1:,} classes; labels are indices of classes from 0, and "
            f"at most {most:,} classes are accepted here: renumber them"
        )
    return [str(label) for label in range(highest + 1)]


def _say_untrained(source: str, train: Tensor, test: Tensor, classes: Sequence[str]) -> None:
    """Classes that no client can learn leave outputs without a meaning; they are rarely meant."""
    counts, tested = (labels.bincount(minlength=len(classes)) for labels in (train, test))
    absent = (counts == 0).nonzero().flatten().tolist()
    present = len(classes) - len(absent)
    if present == 1:
        caution(f"{source}: all training images are of one class, so there is nothing to learn and gradients are ~0")
    if not absent:
        return
    if absent == [0] and tested[0] == 0:
        caution(
            f"{source}: labels start at 1: class 0 has no image, and the model gets {len(classes)} outputs for "
            f"{present} classes; labels count from 0"
        )
        return
    named = ", ".join(classes[label] for label in absent[:3]) + (", ..." if len(absent) > 3 else "")
    in_test = int((tested[absent] > 0).sum())
    caution(
        f"{source}: {len(absent)} of {len(classes)} classes {'has' if len(absent) == 1 else 'have'} no training image "
        f"({named})" + (f", {in_test} of them only test images" if in_test else "")
    )


def _tensors(part: Part, image_size: int | None) -> tuple[Tensor, Tensor]:
    images, labels = part
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    images = resize(images, image_size)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))

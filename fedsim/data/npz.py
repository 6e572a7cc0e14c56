"""`npz`: the user's own images in one NumPy archive."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedsim.data.arrays import Part, build
from fedsim.data.dataset import Dataset
from fedsim.errors import BadInput

ACCEPTED = "x and y, or x_train, y_train, x_test and y_test"


def load(*, path: str, image_size: int | None = None, test_fraction: float = 0.2) -> Dataset:
    """a NumPy archive of your own: x, y (or x_train, y_train, x_test, y_test), uint8 images, integer labels"""
    arrays = _read(Path(path))
    if {"x_train", "y_train"} <= arrays.keys():
        train = _part(path, arrays, "x_train", "y_train")
        test = _part(path, arrays, "x_test", "y_test") if "x_test" in arrays or "y_test" in arrays else None
    elif {"x", "y"} <= arrays.keys():
        train, test = _part(path, arrays, "x", "y"), None
    else:
        raise BadInput(f"{path}: holds {', '.join(arrays) or 'nothing'}; expected {ACCEPTED}")
    if test is not None and train[0].shape[1:] != test[0].shape[1:]:
        raise BadInput(f"{path}: images of x_train are {train[0].shape[1:]}, of x_test {test[0].shape[1:]}")

    highest = max(int(labels.max(initial=0)) for _, labels in (train, test or train))
    classes = [str(name) for name in arrays["classes"]] if "classes" in arrays else [str(i) for i in range(highest + 1)]
    if highest >= len(classes):
        raise BadInput(f"{path}: label {highest}, but `classes` names only {len(classes)} (labels start at 0)")
    return build("npz", train, test, classes=classes, image_size=image_size, test_fraction=test_fraction)


def _read(path: Path) -> Mapping[str, np.ndarray]:
    if not path.is_file():
        raise BadInput(f"{path}: no such file; data.path must name a NumPy archive (.npz) holding {ACCEPTED}")
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise BadInput(f"{path}: a single array; expected an archive (.npz) holding {ACCEPTED}")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: not a readable NumPy archive of plain arrays ({error})") from error


def _part(path: str, arrays: Mapping[str, np.ndarray], x: str, y: str) -> Part:
    for name in (x, y):
        if name not in arrays:
            raise BadInput(f"{path}: {name} is missing; expected {ACCEPTED}")
    images, labels = arrays[x], arrays[y]
    grey_or_colour = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3))
    if images.dtype != np.uint8 or not grey_or_colour or 0 in images.shape:
        raise BadInput(
            f"{path}: {x} is {images.dtype} {images.shape}; expected uint8 images (N, H, W) or (N, H, W, C), C = 1 or 3"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise BadInput(f"{path}: {y} is {labels.dtype} {labels.shape}; expected integer labels (N,)")
    if len(labels) != len(images):
        raise BadInput(f"{path}: {len(images)} images in {x}, but {len(labels)} labels in {y}")
    if labels.min() < 0:
        raise BadInput(f"{path}: {y} holds {labels.min()}; labels count from 0")
    return images, labels

"""`npz`: the user's own images in one NumPy archive."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedsim.archives import read_npz
from fedsim.data.arrays import MOST_UNNAMED, Part, build
from fedsim.data.dataset import Dataset
from fedsim.errors import BadInput, on_one_line

ACCEPTED = "x and y, or x_train, y_train, x_test and y_test"
KNOWN = {"x", "y", "x_train", "y_train", "x_test", "y_test", "classes"}


def load(*, path: str, image_size: int | None = None, test_fraction: float = 0.2) -> Dataset:
    """a NumPy archive of your own: x, y (or x_train, y_train, x_test, y_test), uint8 images, integer labels"""
    arrays = _read(Path(path))
    if {"x_train", "y_train"} <= arrays.keys():
        train = _part(path, arrays, "x_train", "y_train")
        test = _part(path, arrays, "x_test", "y_test") if "x_test" in arrays or "y_test" in arrays else None
    elif {"x", "y"} <= arrays.keys():
        train, test = _part(path, arrays, "x", "y"), None
    else:
        raise BadInput(f"{path}: holds {', '.join(arrays) or 'none of them'}; expected {ACCEPTED}")
    if test is not None and train[0].shape[1:] != test[0].shape[1:]:
        raise BadInput(f"{path}: images of x_train are {train[0].shape[1:]}, of x_test {test[0].shape[1:]}")

    classes = _classes(path, arrays["classes"]) if "classes" in arrays else None
    return build("npz", train, test, classes=classes, source=path, image_size=image_size, test_fraction=test_fraction)


def _read(path: Path) -> Mapping[str, np.ndarray]:
    if not path.exists():
        raise BadInput(f"{path}: no such file; data.path must name a NumPy archive (.npz) holding {ACCEPTED}")
    try:
        return read_npz(path, KNOWN)
    except (ValueError, OSError) as error:
        reason = on_one_line(error)
        raise BadInput(f"{path}: not a readable NumPy archive of plain arrays ({reason})") from None


def _part(path: str, arrays: Mapping[str, np.ndarray], x: str, y: str) -> Part:
    for name in (x, y):
        if name not in arrays:
            raise BadInput(f"{path}: {name} is missing; expected {ACCEPTED}")
    images, labels = arrays[x], arrays[y]
    grey_or_colour = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3))
    if images.dtype not in (np.uint8, np.bool_) or not grey_or_colour or 0 in images.shape:
        # Numbers of other types have no black and white of their own: 0 to 1, 0 to 255, 12 bits of 16 ...
        raise BadInput(
            f"{path}: {x} is {images.dtype} {images.shape}; "
            "expected uint8 images (N, H, W) or (N, H, W, C), C = 1 or 3: 0 is black, 255 white; or bool"
        )
    images = images * np.uint8(255) if images.dtype == np.bool_ else images
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise BadInput(f"{path}: {y} is {labels.dtype} {labels.shape}; expected integer labels (N,)")
    if len(labels) != len(images):
        raise BadInput(f"{path}: {len(images)} images in {x}, but {len(labels)} labels in {y}")
    if labels.min() < 0:
        raise BadInput(f"{path}: {y} holds {labels.min()}; labels count from 0")
    return images, labels


def _classes(path: str, names: np.ndarray) -> list[str]:
    if names.ndim != 1 or names.dtype.kind not in "USiu" or not len(names):
        raise BadInput(f"{path}: classes is {names.dtype} {names.shape}; expected a list of names")
    if len(names) > MOST_UNNAMED:
        raise BadInput(f"{path}: classes names {len(names):,}; at most {MOST_UNNAMED:,} are accepted")
    return [str(name)[:100] for name in names.tolist()]

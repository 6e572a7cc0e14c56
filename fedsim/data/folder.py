"""`folder`: the user's own pictures, one sub-folder for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fedsim.data.arrays import build
from fedsim.data.dataset import Dataset
from fedsim.data.resize import to_square
from fedsim.errors import BadInput

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def load(*, path: str, image_size: int | None = None, test_fraction: float = 0.2) -> Dataset:
    """a folder of your own pictures, one sub-folder for each class"""
    root = Path(path)
    if not root.is_dir():
        raise BadInput(f"{path}: no such folder; data.path must name a folder with one sub-folder for each class")
    found = {
        folder.name: sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    empty = [name for name, pictures in found.items() if not pictures]
    if not found or empty:
        where = f"sub-folder {empty[0]} holds no picture" if empty else "no sub-folder"
        raise BadInput(f"{path}: {where}; expected one sub-folder for each class, of {' '.join(SUFFIXES)} files")

    pictures = [(file, label) for label, name in enumerate(found) for file in found[name]]
    images = [_open(file, image_size) for file, _ in pictures]
    first = images[0].size
    odd = next((i for i, image in enumerate(images) if image.size != first), None)
    if odd is not None:
        raise BadInput(
            f"{pictures[odd][0]}: {images[odd].size} pixels, but {pictures[0][0]} has {first}; "
            "set data.image_size to bring them to one size"
        )
    mode = "L" if all(image.mode in ("1", "L") for image in images) else "RGB"
    stack = np.stack([np.asarray(image.convert(mode)) for image in images])
    labels = np.array([label for _, label in pictures])
    return build("folder", (stack, labels), None, classes=list(found), image_size=None, test_fraction=test_fraction)


def _open(file: Path, image_size: int | None) -> Image.Image:
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode not in ("1", "L"):
                image = image.convert("RGB")
            return image if image_size is None else to_square(image, image_size)
    except (UnidentifiedImageError, OSError) as error:
        raise BadInput(f"{file}: not a readable picture ({error})") from error

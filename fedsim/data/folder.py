"""`folder`: the user's own pictures, one sub-folder for each class."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from fedsim.data.arrays import build
from fedsim.data.dataset import Dataset
from fedsim.data.pixels import Pictures
from fedsim.data.resize import check_memory, to_square
from fedsim.errors import BadInput, caution

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp")
OTHER_PICTURES = {".heic", ".heif", ".svg", ".dng", ".cr2", ".nef"}
"""Pictures that even Pillow does not read; left out with a warning, like those that it reads and we do not."""


def load(*, path: str, image_size: int | None = None, test_fraction: float = 0.2) -> Dataset:
    """a folder of your own pictures, one sub-folder for each class"""
    root = Path(path)
    if not root.is_dir():
        raise BadInput(f"{path}: no such folder; data.path must name a folder with one sub-folder for each class")
    try:
        found = {
            folder.name: [file for file in _files(folder) if file.suffix.lower() in SUFFIXES]
            for folder in sorted(root.iterdir())
            if folder.is_dir() and not _litter(folder)
        }
    except OSError as error:
        raise BadInput(f"{error.filename}: cannot be read: {error.strerror}") from None
    empty = [name for name, pictures in found.items() if not pictures]
    if not found or empty:
        where = f"sub-folder {empty[0]} holds no picture" if empty else "no sub-folder"
        raise BadInput(f"{path}: {where}; expected one sub-folder for each class, of {' '.join(SUFFIXES)} files")
    _say_left_out(root, found)

    pictures = [(file, label) for label, name in enumerate(found) for file in found[name]]
    check_memory(len(pictures), image_size, image_size, channels=3)
    first = _open(Pictures(path), pictures[0][0], image_size).size
    check_memory(len(pictures), first[1], first[0], channels=3)
    reader = Pictures(path)
    images = [_open(reader, file, image_size) for file, _ in pictures]
    odd = next((i for i, image in enumerate(images) if image.size != first), None)
    if odd is not None:
        raise BadInput(
            f"{pictures[odd][0]}: {images[odd].size} pixels, but {pictures[0][0]} has {first}; "
            "set data.image_size to bring them to one size"
        )
    reader.warn()
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    stack = np.stack([np.asarray(image.convert(mode)) for image in images])
    labels = np.array([label for _, label in pictures])
    return build(
        "folder", (stack, labels), None, classes=list(found), source=path, image_size=None, test_fraction=test_fraction
    )


def _litter(path: Path) -> bool:
    """Hidden files and folders, and what macOS puts beside the files of an archive (`._1.png` in `__MACOSX`)."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and not _litter(file))


def _say_left_out(root: Path, found: dict[str, list[Path]]) -> None:
    """Pictures that are no part of a class, or of a format that is not read, must not be missing in silence."""
    known = {*Image.registered_extensions(), *OTHER_PICTURES}
    left_out = [
        file
        for folder in (root, *(root / name for name in found))
        for file in _files(folder)
        if file.suffix.lower() in known and (folder == root or file.suffix.lower() not in SUFFIXES)
    ]
    if left_out:
        count = "1 picture is" if len(left_out) == 1 else f"{len(left_out)} pictures are"
        caution(
            f"{root}: {count} left out ({left_out[0].relative_to(root)}{', ...' if len(left_out) > 1 else ''}); "
            f"read are {' '.join(SUFFIXES)} files in the sub-folders"
        )


def _open(reader: Pictures, file: Path, image_size: int | None) -> Image.Image:
    try:
        image = reader.read(str(file.relative_to(file.parents[1])), partial(Image.open, file))
    except ValueError as error:
        raise BadInput(f"{file}: {error}") from None
    return image if image_size is None else to_square(image, image_size)

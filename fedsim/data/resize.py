"""The one rule by which images are brought to a size: the central square, resampled with anti-aliasing."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from fedsim.errors import BadInput

MOST_BYTES = 8 * 2**30
"""A data set's pixels are held in memory, by each process that trains."""


def check_memory(count: int, height: int | None, width: int | None, *, channels: int) -> None:
    """Raise BadInput, before anything is computed, for images of these sizes that no memory holds; None is unknown."""
    needed = count * (height or 0) * (width or 0) * channels
    if needed > MOST_BYTES:
        raise BadInput(
            f"data.image_size: {count:,} images of {height} x {width} pixels take {needed / 2**30:,.0f} GiB; "
            f"accepted are {MOST_BYTES / 2**30:.0f}: give a smaller image_size"
        )


def to_square(image: Image.Image, size: int) -> Image.Image:
    """The largest central square of a picture at `size` x `size` pixels (bicubic; Pillow widens it when it shrinks)."""
    return ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)


def resize(images: np.ndarray, size: int | None) -> np.ndarray:
    """uint8 images (N, H, W) or (N, H, W, 3) at `size` x `size`; unchanged if `size` is None or theirs already."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    check_memory(len(images), size, size, channels=3 if images.ndim == 4 else 1)
    return np.stack([np.asarray(to_square(Image.fromarray(image), size)) for image in images])

"""The one rule by which images are brought to a size: the central square, resampled with anti-aliasing."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps


def to_square(image: Image.Image, size: int) -> Image.Image:
    """The largest central square of a picture at `size` x `size` pixels (bicubic; Pillow widens it when it shrinks)."""
    return ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)


def resize(images: np.ndarray, size: int | None) -> np.ndarray:
    """uint8 images (N, H, W) or (N, H, W, 3) at `size` x `size`; unchanged if `size` is None or theirs already."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    return np.stack([np.asarray(to_square(Image.fromarray(image), size)) for image in images])

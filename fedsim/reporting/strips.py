"""A row of small pictures as one picture: a page of thousands of reconstructions stays light and opens fast.

The pictures of a strip stand side by side with a transparent gap between them; where one is missing the strip is
transparent, and the page says why on top of it. Lossless WebP: a tenth (noise) to a third (digits) smaller than a
PNG for each picture.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fedsim.reporting.gallery import Tile

LARGEST = 128
"""Pixels a side: larger pictures are reduced, which is more than a page shows of them."""

GAP = 1 / 14
"""The gap between two pictures, in widths of a picture; the style sheet has the same."""


@dataclass(frozen=True)
class Strip:
    """The address that holds the strip, and its size in pixels."""

    address: str
    width: int
    height: int


def strip(tiles: list[Tile]) -> Strip | None:
    """The tiles' pictures, each uint8 (H, W, 1 or 3) of one size, as one; None where no tile has one."""
    size = next((tile.image.shape[:2] for tile in tiles if tile.image is not None), None)
    if size is None:
        return None
    images = [_small(tile.image) if tile.image is not None and tile.image.shape[:2] == size else None for tile in tiles]
    height, width = next(image.shape[:2] for image in images if image is not None)
    step = width + max(1, round(width * GAP))
    canvas = np.zeros((height, step * (len(tiles) - 1) + width, 4), np.uint8)
    for place, image in enumerate(images):
        if image is not None:
            canvas[:, place * step : place * step + width, :3] = image
            canvas[:, place * step : place * step + width, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(canvas, "RGBA").save(buffer, "WEBP", lossless=True, quality=50, method=2)
    address = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Strip(address, canvas.shape[1], height)


def _small(image: np.ndarray) -> np.ndarray:
    if max(image.shape[:2]) <= LARGEST:
        return image
    reduced = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy())
    reduced.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    return np.asarray(reduced)

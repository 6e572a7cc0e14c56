"""The picture of a leaderboard entry: a PNG of two rows of tiles, the originals above the reconstructions.

The victims are chosen as in the report, by the strongest attack on the defense and the same for all attacks: the worst,
the median and the best rebuilt, in this order, and others evenly between.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from fedsim.reporting.gallery import Pictures, panels

VICTIMS = 6
LARGEST = 96
"""Pixels. Larger images are shown smaller, by the mean over boxes."""
_LARGEST_FILE = 1 << 20


@dataclass(frozen=True)
class Sprite:
    """A PNG of `columns` by 2 tiles; `tile` is width and height, `psnr` holds the victims' scores in dB."""

    png: bytes
    tile: tuple[int, int]
    psnr: list[float | None]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.png).hexdigest()


def sprites(results: pl.DataFrame, pictures: Pictures) -> dict[tuple[str, str, str], Sprite]:
    """By the labels of setting, defense and attack, the sprite of those that have pictures."""
    found = {}
    for panel in panels(results, pictures, victims=VICTIMS):
        for row in panel.rows:
            pairs = [
                (original.image, tile.image, tile.psnr)
                for original, tile in zip(panel.originals, row.tiles)
                if original.image is not None and tile.image is not None
            ]
            if pairs:
                found[panel.setting, panel.defense, row.label] = sprite_of(pairs)
    return found


def sprite_of(pairs: list[tuple[np.ndarray, np.ndarray, float | None]]) -> Sprite:
    """Two rows of tiles from uint8 images (H, W, C)."""
    height, width = pairs[0][0].shape[:2]
    shrink = min(1.0, LARGEST / max(height, width))
    tile = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    grey = all(image.shape[2] == 1 for pair in pairs for image in pair[:2])
    sheet = Image.new("L" if grey else "RGB", (tile[0] * len(pairs), tile[1] * 2))
    for column, pair in enumerate(pairs):
        for line, image in enumerate(pair[:2]):
            drawn = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
            if drawn.size != tile:
                drawn = drawn.resize(tile, Image.Resampling.BOX)
            sheet.paste(drawn, (column * tile[0], line * tile[1]))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return Sprite(buffer.getvalue(), tile, [psnr for *_, psnr in pairs])


def fault(path: Path, *, sha256: str, size: tuple[int, int]) -> str | None:
    """What is wrong with the picture that an entry names, if anything."""
    if not path.is_file() or path.is_symlink():
        return "is missing"
    if path.stat().st_size > _LARGEST_FILE:
        return "is larger than 1 MiB"
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        return "is another one than the entry names (its SHA-256 differs)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:  # reads what it declares, and unpacks nothing
                return None if image.size == size else f"measures {image.size} pixels, not {size}"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return f"declares more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    except Exception:  # a damaged file makes Pillow's decoders raise whatever they stumble over
        return "is no PNG"

"""The frames of an animation, and the GIF that they make."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fedsim.reporting.animation.snapshots import Emerging

TILE = 196
FRAMES = 60
BYTES = 2_000_000
SHOW_MILLISECONDS = 6_000
HELD_MILLISECONDS = 3_000
MARGIN, LINE = 16, 20
PAPER, INK, FAINT, ACCENT = (253, 253, 251), (28, 28, 26), (102, 102, 95), (31, 106, 158)


def gif(shown: Emerging) -> bytes:
    """At most 2 MB: with fewer frames where the pictures need it."""
    most = FRAMES
    while True:
        chosen = _spread(len(shown.images), most)
        content = _encode([frame(shown, index) for index in chosen])
        if len(content) <= BYTES or most <= 4:
            return content
        most //= 2


def frame(shown: Emerging, index: int) -> Image.Image:
    """One moment: the original, the attack's image and the mask, and below them the iteration and the loss."""
    last = index == len(shown.images) - 1
    panels: list[tuple[str, Image.Image]] = []
    if shown.original is not None:
        panels.append(("original (seen by scoring only)", _tile(shown.original)))
    panels.append(("answer" if last else "attack's image", _tile(shown.images[index])))
    if shown.masks is not None:
        panels.append((f"its mask at {shown.layer}", _tile(_heat(shown.masks[index]))))
    width = max(2, len(panels)) * (TILE + MARGIN) + MARGIN
    canvas = Image.new("RGB", (width, TILE + 4 * LINE + MARGIN), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    draw.text((MARGIN, 8), _fitting(shown.title, width - 2 * MARGIN, font), fill=INK, font=font)
    for place, (label, tile) in enumerate(panels):
        left = MARGIN + place * (TILE + MARGIN)
        draw.text((left, LINE + 10), _fitting(label, TILE, font), fill=FAINT, font=font)
        canvas.paste(tile, (left, 2 * LINE + 12))
    below = 2 * LINE + 12 + TILE + 8
    count, loss = shown.iterations[index], shown.losses[index]
    moment = f"iteration {count:,}   loss {loss:.3g}"
    if last:
        moment = f"after {count:,} iterations   lowest loss {loss:.3g}"
    draw.text((MARGIN, below), moment, fill=INK, font=font)
    if shown.masks is not None:
        right = width - MARGIN - draw.textlength(shown.legend, font=font)
        draw.text((right, below), shown.legend, fill=FAINT, font=font)
    return canvas


def _encode(frames: list[Image.Image]) -> bytes:
    indexed = [picture.quantize(256, dither=Image.Dither.NONE) for picture in frames]
    buffer = io.BytesIO()
    each = min(500, max(80, SHOW_MILLISECONDS // len(indexed)))
    durations = [each] * (len(indexed) - 1) + [HELD_MILLISECONDS]
    indexed[0].save(
        buffer, format="GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=True
    )
    return buffer.getvalue()


def _spread(count: int, most: int) -> list[int]:
    """At most so many of the indices below `count`, evenly; the first and the last always."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def _heat(values: np.ndarray) -> np.ndarray:
    """From a light tone at 0 to the accent at 1; paper where there is nothing."""
    shares = np.nan_to_num(values)[..., None]
    colours = (1 - shares) * np.array([228, 228, 220]) + shares * np.array(ACCENT)
    return np.where(np.isnan(values)[..., None], np.array(PAPER), colours).round().astype(np.uint8)


def _tile(image: np.ndarray) -> Image.Image:
    """A square of TILE pixels: enlarged by whole steps where it is small, so that pixels stay pixels."""
    picture = Image.fromarray(image).convert("RGB")
    longest = max(picture.size)
    if longest > TILE:
        picture.thumbnail((TILE, TILE), Image.Resampling.BOX)
    else:
        times = TILE // longest
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    tile = Image.new("RGB", (TILE, TILE), PAPER)
    tile.paste(picture, (0, (TILE - picture.height) // 2))
    return tile


def _fitting(text: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."

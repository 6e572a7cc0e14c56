"""One picture of a user to 8 bits a channel, by the range that its own format declares; shared by `folder` and `hub`.

Pillow's `convert` clips more than 8 bits instead of scaling them, so that such pictures turn black or white, and drops
transparency, so that what was invisible shows. Here the one is scaled or refused, the other is put on white.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from fedsim.errors import caution, on_one_line

GREY = ("1", "L")
EIGHT_BITS = (*GREY, "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
ACCEPTED = "8 bits a channel, or 16 bits grey"
_BITS, _PHOTOMETRIC = 258, 262
"""TIFF's tags: 12 bits travel in Pillow's 16-bit mode too, and so do pictures whose 0 is white."""


@dataclass
class Pictures:
    """Reads the pictures of one source, and remembers what is worth a warning.

    Args:
        source: the source's name in the warnings.
    """

    source: str
    _remarks: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def read(self, name: str, opened: Callable[[], Image.Image]) -> Image.Image:
        """The first frame of a picture, upright, in mode L or RGB.

        Args:
            name: the picture's name in the warnings.
            opened: opens it.

        Raises:
            ValueError: it cannot be read, or its pixels have no declared range; one line.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's own, e.g. of corrupt EXIF data: not the user's business
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with opened() as picture:
                    frames, declared = getattr(picture, "n_frames", 1), _declared(picture)
                    picture = ImageOps.exif_transpose(picture)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise ValueError(f"declares more than {Image.MAX_IMAGE_PIXELS:,} pixels, which are not read") from None
        except Exception as error:  # a damaged file makes Pillow's decoders raise whatever they stumble over
            reason = on_one_line(error)
            raise ValueError(f"not a readable picture ({reason})") from None
        if frames > 1:
            self.remark(name, "of several frames: only the first is used")
        clear, transparent = _on_white(_eight_bits(picture, declared))
        if transparent:
            self.remark(name, "with transparent parts: they are put on white")
        return clear

    def remark(self, name: str, what: str) -> None:
        self._remarks[what].append(name)

    def warn(self) -> None:
        """One warning for each kind of remark."""
        for what, names in self._remarks.items():
            count = "1 picture" if len(names) == 1 else f"{len(names)} pictures"
            caution(f"{self.source}: {count} {what} ({names[0]}{', ...' if len(names) > 1 else ''})")


@dataclass(frozen=True)
class _Declared:
    """What the file says of the grey values that do not come in 8 bits: 0 for nothing."""

    bits: int
    inverted: bool


def _declared(picture: Image.Image) -> _Declared:
    tags = getattr(picture, "tag_v2", {})
    if picture.mode in SIXTEEN_BITS or (picture.mode == "I" and picture.format == "PNG"):  # I: older versions of Pillow
        return _Declared(tags.get(_BITS, (16,))[0], tags.get(_PHOTOMETRIC) == 0)
    return _Declared(0, False)


def _eight_bits(picture: Image.Image, declared: _Declared) -> Image.Image:
    """The same picture with 8 bits a channel, any transparency kept. Raises ValueError where no range is declared."""
    if picture.mode in EIGHT_BITS + WITH_ALPHA:
        return picture
    if not declared.bits:
        raise ValueError(
            f"its pixels are 32-bit or floating-point numbers (Pillow's mode {picture.mode}): nobody says which is "
            f"black and which white; accepted: {ACCEPTED}"
        )
    values = np.asarray(picture).astype(np.float64)
    scaled = np.clip(values / (2**declared.bits - 1) * 255, 0, 255).round().astype(np.uint8)
    scaled = 255 - scaled if declared.inverted else scaled
    clear = picture.info.get("transparency")  # PNG: the one value that is transparent
    alpha = np.where(values == clear, 0, 255).astype(np.uint8)
    return Image.fromarray(scaled if clear is None else np.stack([scaled, alpha], -1))


def _on_white(picture: Image.Image) -> tuple[Image.Image, bool]:
    """Mode L or RGB, and whether anything in the picture was transparent."""
    if picture.mode not in WITH_ALPHA and "transparency" not in picture.info:
        return picture.convert("L" if picture.mode in GREY else "RGB"), False
    grey = picture.mode in (*GREY, "LA", "La")
    picture = picture.convert("LA") if picture.mode == "La" else picture  # Pillow knows no straight way
    layered = picture.convert("RGBA")
    see_through = min(alpha for alpha, count in enumerate(layered.getchannel("A").histogram()) if count) < 255
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("L" if grey else "RGB"), see_through

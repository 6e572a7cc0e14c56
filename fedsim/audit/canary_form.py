"""What an item of a client's data set looks like, and an item of that form that holds an image of the canary.

A dictionary or a tuple, nested or not; in it a tensor, an array or a picture of PIL, and a whole number.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LABELS = ("label", "labels", "target", "targets", "class", "y")
"""What the label of an item is called where it holds several whole numbers."""

Place = tuple[Any, ...]
"""Keys and positions that lead to a part of an item."""


class Refusal(Exception):
    """A client that cannot be given a canary, in one line."""


@dataclass(frozen=True)
class Images:
    """The canary's images, uint8 (N, C, H, W), their labels (N,), and the normalisation that models expect."""

    pixels: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def scaled(self) -> Tensor:
        """(N, C, H, W) float32 in [0, 1], computed as torchvision's `ToTensor` does."""
        return self.pixels.float().div(255)

    def normalised(self) -> Tensor:
        """(N, C, H, W) float32, computed as torchvision's `Normalize` does."""
        shape = (1, -1, 1, 1)
        return (self.scaled() - self.mean.view(shape)) / self.std.view(shape)


@dataclass
class Form:
    """What an item of a client looks like: the item itself, and the places of its image and its label.

    Args:
        raw: whether its image holds pixels in [0, 1]: then the client normalises later, or never.
    """

    item: Any
    image: Place
    label: Place
    raw: bool = False

    @classmethod
    def of(cls, item: Any, images: Images) -> Form:
        pictures, numbers = list[Place](), list[Place]()
        for place, leaf in _leaves(item):
            if _as_image(leaf, images, 0, raw=False) is not None:
                pictures.append(place)
            elif _is_label(leaf):
                numbers.append(place)
        shape = tuple(images.pixels.shape[1:])
        if not pictures:
            raise Refusal(f"an item of the client's data set holds no image of shape {shape}: {_described(item)}")
        if len(pictures) > 1:
            raise Refusal(f"an item of the client's data set holds {len(pictures)} images: {_described(item)}")
        named = [place for place in numbers if str(place[-1]).lower() in LABELS] if len(numbers) > 1 else numbers
        if len(named) != 1:
            raise Refusal(
                f"an item of the client's data set holds {len(numbers)} whole numbers, of which "
                f"{len(named)} are called a label: {_described(item)}"
            )
        return cls(item, pictures[0], named[0], _in_pixels(at(item, pictures[0])))

    def filled(self, images: Images, index: int) -> Any:
        """An item of this form with an image of the canary."""
        picture, number = at(self.item, self.image), at(self.item, self.label)
        label = int(images.labels[index])
        filled = _with(self.item, self.image, _as_image(picture, images, index, raw=self.raw))
        return _with(filled, self.label, _like_label(number, label))


def _leaves(item: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(item, Mapping):
        for key, part in item.items():
            yield from _leaves(part, (*place, key))
    elif isinstance(item, list | tuple):
        for index, part in enumerate(item):
            yield from _leaves(part, (*place, index))
    else:
        yield place, item


def at(item: Any, place: Place) -> Any:
    return functools.reduce(lambda part, key: part[key], place, item)


def _with(item: Any, place: Place, value: Any) -> Any:
    """A copy of the item with another value at a place."""
    if not place:
        return value
    key, rest = place[0], place[1:]
    part = _with(item[key], rest, value)
    if isinstance(item, tuple):
        parts = [*item[:key], part, *item[key + 1 :]]
        return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)
    found = copy.copy(item)
    found[key] = part
    return found


def _as_image(leaf: Any, images: Images, index: int, *, raw: bool) -> Any:
    """The canary's image as a leaf of the same kind, shape and type; None where the leaf is no image of that shape."""
    pixels = images.pixels[index]
    channels, height, width = pixels.shape
    if isinstance(leaf, Image.Image):
        if leaf.size != (width, height) or leaf.mode not in ("RGB", "L") or len(leaf.getbands()) != channels:
            return None
        array = pixels.permute(1, 2, 0).numpy()
        return Image.fromarray(array if channels == 3 else array[..., 0], leaf.mode)
    if not isinstance(leaf, Tensor | np.ndarray):
        return None
    shape, kind = tuple(leaf.shape), torch.as_tensor(leaf).dtype
    value = pixels if kind == torch.uint8 else (images.scaled() if raw else images.normalised())[index]
    if not (kind == torch.uint8 or kind.is_floating_point):
        return None
    if shape == (height, width, channels) and shape != (channels, height, width):
        value = value.permute(1, 2, 0).contiguous()
    elif shape == (height, width) and channels == 1:
        value = value[0]
    elif shape != (channels, height, width):
        return None
    value = value.to(kind)
    return value.numpy() if isinstance(leaf, np.ndarray) else value.clone()


def _is_label(leaf: Any) -> bool:
    if isinstance(leaf, bool):
        return False
    if isinstance(leaf, int | np.integer):
        return True
    if isinstance(leaf, Tensor | np.ndarray):
        value = torch.as_tensor(leaf)
        return value.numel() == 1 and not (value.is_floating_point() or value.dtype == torch.bool)
    return False


def _like_label(leaf: Any, label: int) -> Any:
    if isinstance(leaf, Tensor):
        return torch.full_like(leaf, label)
    return np.full_like(leaf, label) if isinstance(leaf, np.ndarray) else type(leaf)(label)


def differs(first: Any, second: Any) -> bool:
    return not np.array_equal(np.asarray(first), np.asarray(second))


def _in_pixels(leaf: Any) -> bool:
    """Whether an image of floats holds nothing but multiples of 1/255 from 0 to 1."""
    value = torch.as_tensor(np.asarray(leaf))
    if not value.is_floating_point() or value.min() < 0 or value.max() > 1:
        return False
    return bool((value.double() * 255 - (value.double() * 255).round()).abs().max() < 1e-3)


def odd_values(leaf: Any, images: Images) -> str | None:
    """Where the client's own item is not normalised as the canary's images are, as far as one item can tell."""
    value = torch.as_tensor(np.asarray(leaf))
    if not value.is_floating_point() or tuple(value.shape) != tuple(images.pixels.shape[1:]):
        return None
    pixels = value * images.std.view(-1, 1, 1) + images.mean.view(-1, 1, 1)
    low, high = float(pixels.min()), float(pixels.max())
    if low < -0.02 or high > 1.02:
        stated = f"mean {numbers(images.mean)} and std {numbers(images.std)}"
        return f"with {stated} the client's own image would have pixels from {low:.2f} to {high:.2f}, not 0 to 1"
    return None


def numbers(values: Tensor) -> str:
    return " ".join(f"{round(float(value), 4) + 0.0:g}" for value in values)


def name_of(thing: Any) -> str:
    return type(thing).__name__


def _described(item: Any) -> str:
    def one(place: Place, leaf: Any) -> str:
        kind = str(leaf.dtype).removeprefix("torch.") if isinstance(leaf, Tensor | np.ndarray) else name_of(leaf)
        size = f" {tuple(leaf.shape)}" if isinstance(leaf, Tensor | np.ndarray) else ""
        size = f" {leaf.size}" if isinstance(leaf, Image.Image) else size
        return f"{'.'.join(map(str, place)) or 'item'}: {kind}{size}"

    leaves: Sequence[tuple[Place, Any]] = list(_leaves(item))
    return ", ".join(one(*leaf) for leaf in leaves[:6]) + (", ..." if len(leaves) > 6 else "")

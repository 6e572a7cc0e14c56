"""Known images in the place of a client's own: what its data loaders read, item by item, in the client's own form.

Only `torch.utils.data.DataLoader` is touched. Its data set is asked for one item, which says what an item looks like (a
dictionary or a tuple; a tensor, an array or a picture), and answers with items of that form, an image of the canary and
its label in them. Random augmentations within the data set are thereby bypassed; what the loader's `collate_fn` or the
training loop do comes after and stays.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

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

    def normalised(self) -> Tensor:
        """(N, C, H, W) float32, computed as torchvision's `ToTensor` and `Normalize` do."""
        shape = (1, -1, 1, 1)
        return (self.pixels.float().div(255) - self.mean.view(shape)) / self.std.view(shape)


@dataclass
class Form:
    """What an item of a client looks like: the item itself, and the places of its image and its label."""

    item: Any
    image: Place
    label: Place

    @classmethod
    def of(cls, item: Any, images: Images) -> Form:
        pictures, numbers = list[Place](), list[Place]()
        for place, leaf in _leaves(item):
            if _as_image(leaf, images, 0) is not None:
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
        return cls(item, pictures[0], named[0])

    def filled(self, images: Images, index: int) -> Any:
        """An item of this form with an image of the canary."""
        picture, number = _at(self.item, self.image), _at(self.item, self.label)
        label = int(images.labels[index])
        filled = _with(self.item, self.image, _as_image(picture, images, index))
        return _with(filled, self.label, _like_label(number, label))


@dataclass
class Loaders:
    """All data loaders that a client makes; `install` lets them read the canary.

    Args:
        batch_size: in the place of the loaders' own; None: theirs.
    """

    images: Images
    batch_size: int | None = None
    made: int = 0
    sizes: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)

    def install(self) -> None:
        """From now on every `DataLoader` of this process reads the canary."""
        original = DataLoader.__init__
        signature = inspect.signature(original)

        @functools.wraps(original)
        def init(loader: DataLoader, *arguments: Any, **keywords: Any) -> None:
            bound = signature.bind(loader, *arguments, **keywords)
            given = dict(bound.arguments)
            given.pop(next(iter(signature.parameters)))
            original(loader, **self._changed(given))

        setattr(DataLoader, "__init__", init)  # noqa: B010

    def _changed(self, given: dict[str, Any]) -> dict[str, Any]:
        self.made += 1
        data = given["dataset"]
        given["dataset"] = data if isinstance(data, Known | KnownStream) else self._known(data)
        size = given.get("batch_size", 1)
        if given.get("batch_sampler") is not None:
            raise Refusal(f"the client's DataLoader has a batch sampler of its own ({_name(given['batch_sampler'])})")
        sampler = given.pop("sampler", None)
        if isinstance(sampler, RandomSampler | SubsetRandomSampler) and not getattr(sampler, "replacement", False):
            given["shuffle"] = True
        elif sampler is not None and not isinstance(sampler, SequentialSampler):
            raise Refusal(f"the client's DataLoader has a sampler of its own ({_name(sampler)})")
        if size is not None:
            self.sizes.append(size)
            given["batch_size"] = self.batch_size or size
        for alone in ("prefetch_factor", "multiprocessing_context", "worker_init_fn"):
            given.pop(alone, None)
        return given | {"num_workers": 0, "persistent_workers": False, "pin_memory": False, "timeout": 0}

    def _known(self, data: Any) -> Dataset:
        streamed = isinstance(data, IterableDataset)
        read: Callable[[], Any] = (lambda: next(iter(data))) if streamed else (lambda: data[0])
        first, second = read(), read()
        form = Form.of(first, self.images)
        if _differs(_at(first, form.image), _at(second, form.image)):
            self.note("the client's random augmentations were bypassed: the canary's images enter as they are")
        if odd := _odd_values(_at(first, form.image), self.images):
            self.note(odd)
        return (KnownStream if streamed else Known)(data, form, self.images)


class Known(Dataset):
    """The canary's images as items of the client's form; all else is asked of the client's own data set."""

    def __init__(self, own: Any, form: Form, images: Images) -> None:
        self._own, self._form, self._images = own, form, images

    def __len__(self) -> int:
        return len(self._images.pixels)

    def __getitem__(self, index: int) -> Any:
        return self._form.filled(self._images, int(index))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_own"], name)


class KnownStream(IterableDataset):
    """The same of a data set that is read as a stream: one image after the other."""

    def __init__(self, own: Any, form: Form, images: Images) -> None:
        self._form, self._images = form, images

    def __iter__(self) -> Iterator[Any]:
        return (self._form.filled(self._images, index) for index in range(len(self._images.pixels)))


def _leaves(item: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(item, Mapping):
        for key, part in item.items():
            yield from _leaves(part, (*place, key))
    elif isinstance(item, list | tuple):
        for index, part in enumerate(item):
            yield from _leaves(part, (*place, index))
    else:
        yield place, item


def _at(item: Any, place: Place) -> Any:
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


def _as_image(leaf: Any, images: Images, index: int) -> Any:
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
    value = pixels if kind == torch.uint8 else images.normalised()[index]
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


def _differs(first: Any, second: Any) -> bool:
    return not np.array_equal(np.asarray(first), np.asarray(second))


def _odd_values(leaf: Any, images: Images) -> str | None:
    """Where the client's own item is not normalised as the canary's images are, as far as one item can tell."""
    value = torch.as_tensor(np.asarray(leaf))
    if not value.is_floating_point() or tuple(value.shape) != tuple(images.pixels.shape[1:]):
        return None
    pixels = value * images.std.view(-1, 1, 1) + images.mean.view(-1, 1, 1)
    low, high = float(pixels.min()), float(pixels.max())
    if low < -0.02 or high > 1.02:
        stated = f"mean {_numbers(images.mean)} and std {_numbers(images.std)}"
        return f"with {stated} the client's own image would have pixels from {low:.2f} to {high:.2f}, not 0 to 1"
    return None


def _numbers(values: Tensor) -> str:
    return " ".join(f"{float(value):g}" for value in values)


def _name(thing: Any) -> str:
    return type(thing).__name__


def _described(item: Any) -> str:
    def one(place: Place, leaf: Any) -> str:
        kind = str(leaf.dtype).removeprefix("torch.") if isinstance(leaf, Tensor | np.ndarray) else _name(leaf)
        size = f" {tuple(leaf.shape)}" if isinstance(leaf, Tensor | np.ndarray) else ""
        size = f" {leaf.size}" if isinstance(leaf, Image.Image) else size
        return f"{'.'.join(map(str, place)) or 'item'}: {kind}{size}"

    leaves: Sequence[tuple[Place, Any]] = list(_leaves(item))
    return ", ".join(one(*leaf) for leaf in leaves[:6]) + (", ..." if len(leaves) > 6 else "")

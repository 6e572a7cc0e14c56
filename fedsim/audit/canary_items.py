"""Known images in the place of a client's own: what its data loaders read, item by item, in the client's own form.

Only `torch.utils.data.DataLoader` is touched. Its data set is asked for one item, which says what an item looks like (a
dictionary or a tuple; a tensor, an array or a picture), and answers with items of that form, an image of the canary and
its label in them. Random augmentations within the data set are thereby bypassed; what the loader's `collate_fn` or the
training loop do comes after and stays.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from fedsim.audit.canary_form import Form, Images, Refusal, at, differs, name_of, odd_values


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
            raise Refusal(f"the client's DataLoader has a batch sampler of its own ({name_of(given['batch_sampler'])})")
        sampler = given.pop("sampler", None)
        if isinstance(sampler, RandomSampler | SubsetRandomSampler) and not getattr(sampler, "replacement", False):
            given["shuffle"] = True
        elif sampler is not None and not isinstance(sampler, SequentialSampler):
            raise Refusal(f"the client's DataLoader has a sampler of its own ({name_of(sampler)})")
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
        if differs(at(first, form.image), at(second, form.image)):
            self.note("the client's random augmentations were bypassed: the canary's images enter as they are")
        if not form.raw and (odd := odd_values(at(first, form.image), self.images)):
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

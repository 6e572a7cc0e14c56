"""Tensors on their way through Ray's object store: the bytes apart from the rest, so that nothing is copied twice.

Ray pickles a tensor by way of `torch.save`, three copies of it in memory; a numpy array it hands over as it lies.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Parcel:
    """A value whose tensors travel as bytes: the rest pickled, and one uint8 array for each tensor."""

    rest: bytes
    arrays: list[np.ndarray]

    @classmethod
    def of(cls, value: Any) -> Parcel:
        """Any value that can be pickled; a tensor that it holds twice is sent once. Tensors come out on the CPU."""
        rest, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
        _Pickler(rest, protocol=5, buffer_callback=buffers.append).dump(value)
        return cls(rest.getvalue(), [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers])

    def open(self) -> Any:
        """The value, its tensors in memory of their own: an attack may write to them."""
        return pickle.loads(self.rest, buffers=self.arrays)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(flat.data), value.dtype, tuple(value.shape))


def _tensor(content: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    tensor.reshape(-1).view(torch.uint8).numpy()[:] = np.frombuffer(content, np.uint8)
    return tensor

"""Trained weights from a user's file: read with safetensors alone, and fitted to a model by name and shape.

Any state dict that `safetensors.torch.save_file` wrote will do, and so will the `round_k.state.safetensors` of a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from fedsim.errors import BadInput, on_one_line

KEY = "model.checkpoint"
"""What names such a file in a scenario."""


def fingerprint(path: str, *, key: str = KEY) -> str:
    """A hash of the file's bytes: other weights, other fingerprint. Raises BadInput, which names the key, if it cannot
    be read."""
    try:
        about = Path(path).stat()
    except OSError as error:
        raise _unusable(key, path, f"cannot be read: {error.strerror}") from None
    return _digest(path, about.st_mtime_ns, about.st_size)


def restore(model: nn.Module, path: str, *, content: str | None = None, key: str = KEY) -> None:
    """Give a model the weights and buffers of a checkpoint, in the model's own floating-point type.

    Args:
        content: the fingerprint that the file must still have; None takes any.
        key: that named the file.

    Raises:
        BadInput: not a safetensors file, not the names, shapes or kinds of the model's state, NaN or infinity in it, or
            another content. The model is then as it was.
    """
    raw = _read(path, key)
    if content is not None and _hash(raw) != content:
        raise _unusable(key, path, "the file has changed since the run was planned; run it again")
    try:
        state = load(raw)
    except (SafetensorError, KeyError) as error:  # a KeyError names a number format that this torch does not have
        raise _unusable(key, path, f"not a safetensors file ({on_one_line(error)})") from None
    fault = _fault(state, model.state_dict())
    if fault:
        raise _unusable(key, path, fault)
    model.load_state_dict(state)


def _fault(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Why a state is not one of the model, or nothing."""
    missing = [name for name in own if name not in state]
    unknown = sorted(name for name in state if name not in own)  # safetensors lists them in no fixed order
    if missing or unknown:
        parts = [f"{what} {_some(names)}" for what, names in (("lacks", missing), ("has", unknown)) if names]
        return f"{' and '.join(parts)}, unlike the model's state"
    for name, expected in own.items():
        value = state[name]
        if value.shape != expected.shape:
            return f"{name} has shape {tuple(value.shape)}, the model's has {tuple(expected.shape)}"
        if value.is_floating_point() != expected.is_floating_point() or value.is_complex():
            return f"{name} is {_kind(value)}, the model's is {_kind(expected)}"
        if value.is_floating_point() and not value.isfinite().all():
            return f"{name} holds NaN or infinity"
    return ""


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _read(path: str, key: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unusable(key, path, f"cannot be read: {error.strerror}") from None


@lru_cache(maxsize=64)
def _digest(path: str, changed: int, size: int) -> str:
    return _hash(_read(path, KEY))


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


def _unusable(key: str, path: str, why: str) -> BadInput:
    return BadInput(f"{key}: {path}: {why}")

"""From the block that describes a decoder to a module that makes images of the data's shape."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from attacks.generated import check_images
from defenses.registry import parameters as _constructor_parameters
from fedsim.decoders.conv import ConvDecoder
from fedsim.errors import BadInput
from fedsim.models import factory, restore
from fedsim.random import seeded_torch

DECODERS: dict[str, type[nn.Module]] = {"conv": ConvDecoder}

OURS = ("name", "factory", "checkpoint", "content", "source")
"""Keys of a block that no constructor is given."""


def names() -> list[str]:
    """The bundled decoders."""
    return list(DECODERS)


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """The keys that a scenario may set for a bundled decoder."""
    every = _constructor_parameters(DECODERS[name])
    return {key: value for key, value in every.items() if value.kind is value.KEYWORD_ONLY}


def build(spec: Mapping[str, Any], *, input_shape: tuple[int, int, int]) -> nn.Module:
    """A decoder that was seen to make images of this shape, of pixels in [0, 1].

    Args:
        spec: `{"name": "conv", **keys}` or `{"factory": "package.module:function", **keys}`; the keys go to the
            constructor or to the factory, which is called with `input_shape` besides. The key `checkpoint` names a
            safetensors file with its weights; `content` is the fingerprint that it must still have.

    Raises:
        BadInput: a factory that cannot be imported or called, what is no decoder, images of another shape, or a file
            that is not of its weights.
    """
    label, make = _constructor(spec)
    keys = {key: value for key, value in spec.items() if key not in OURS}
    with seeded_torch(0), _located(spec, make, label):  # whoever wants other weights says which
        try:
            decoder = make(input_shape=input_shape, **keys)
            check_images(decoder, input_shape)
        except ValueError as error:
            raise BadInput(f"{label}: {error}") from None
    if spec.get("checkpoint") is not None:
        restore(decoder, str(spec["checkpoint"]), content=spec.get("content"), key="decoder.checkpoint")
    return decoder


def _constructor(spec: Mapping[str, Any]) -> tuple[str, Callable[..., Any]]:
    if "factory" in spec:
        return f"decoder factory {spec['factory']!r}", factory.load(str(spec["factory"]), of="decoder")
    if spec.get("name") not in DECODERS:
        raise BadInput(f"unknown decoder {spec.get('name')!r} (known: {', '.join(DECODERS)}, or a factory)")
    return f"decoder {spec['name']!r}", DECODERS[spec["name"]]


def _located(spec: Mapping[str, Any], make: Callable[..., Any], label: str) -> AbstractContextManager[None]:
    """The user's own code may raise anything: its place is named."""
    if "factory" not in spec:
        return nullcontext()
    return factory.located(label, getattr(sys.modules.get(make.__module__), "__file__", None))

"""Checks of a model's hyper-parameters that several models share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

MOST_LAYERS = 1_000
MOST_PARAMETERS = 1_000_000_000
"""Of a model that comes with fedsim: 4 GB in float32, and every attack holds a few times that."""


def positive(**values: int) -> None:
    """Raise ValueError, naming the key, unless every value is a whole number of at least 1, and depths are sensible."""
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} = {value!r} is not a whole number of at least 1")
        if key == "depth" and value > MOST_LAYERS:
            raise ValueError(f"depth = {value} is more than {MOST_LAYERS:,} layers")


def check_size(make: Callable[..., nn.Module], keys: Mapping[str, Any]) -> None:
    """Raise ValueError for a model of more than `MOST_PARAMETERS`, before any memory is taken for it."""
    if all(value <= _WIDE for value in keys.values() if isinstance(value, int)):
        return
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in make(**keys).parameters())
    except RuntimeError:
        raise ValueError(f"more parameters than can be counted; at most {MOST_PARAMETERS:,} are accepted") from None
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"{parameters:,} parameters; at most {MOST_PARAMETERS:,} are accepted")


_WIDE = 4096
"""Up to here no key makes a model too large."""


def one_of(key: str, value: object, accepted: Sequence[str]) -> None:
    """Raise ValueError, listing what is accepted, unless the value is in the list."""
    if value not in accepted:
        raise ValueError(f"{key} = {value!r} is not one of {', '.join(accepted)}")

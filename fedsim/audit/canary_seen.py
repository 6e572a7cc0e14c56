"""What is noted of a client's training: forward passes, what clipped gradients, steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Option = Any
"""A hyper-parameter, as JSON can hold it."""


@dataclass
class Call:
    """One forward pass of the client's model.

    Args:
        model: the module whose arrays the server sent.
        resting: the paths of its modules that were in evaluation mode.
        inputs: the tensors that it was given.
        masks: by site, in the order of the module's calls.
        rates: of these sites.
        hidden: what else drew random numbers.
        target: what its output was compared with, if a function of torch did.
        backward: whether a backward pass went through its output.
    """

    model: nn.Module
    resting: tuple[str, ...]
    inputs: list[Tensor] = field(default_factory=list)
    masks: dict[str, list[Tensor]] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    autocast: str | None = None
    target: Tensor | None = None
    backward: bool = False


@dataclass(frozen=True)
class Clipped:
    """A call of torch's functions that clip gradients: of so many parameters, by a bound, by a norm of this order."""

    function: str
    bound: float
    order: float
    parameters: int


@dataclass(frozen=True)
class Grouped:
    """A group of an optimizer's parameters: the names of those that are the model's, and its hyper-parameters."""

    names: tuple[str, ...]
    options: Mapping[str, Option]

    @property
    def rate(self) -> float:
        return float(self.options["lr"])

    @property
    def others(self) -> dict[str, Option]:
        """The hyper-parameters apart from the learning rate."""
        return {key: value for key, value in self.options.items() if key not in ("lr", "initial_lr")}


@dataclass
class Step:
    """One step of an optimizer.

    Args:
        calls: forward passes whose gradients went into it.
        groups: of its parameters, those that hold one of the model's.
        gradients: the names of the parameters that it was given a gradient for.
        clipped: by what, before it.
        altered: a parameter that was changed since the step before, by something else.
        changed: a parameter whose gradient was changed since the backward pass, by something unknown.
    """

    optimizer: Optimizer
    calls: list[Call]
    groups: tuple[Grouped, ...]
    gradients: frozenset[str]
    clipped: list[Clipped]
    backwards: int
    altered: str | None
    changed: str | None


def tensors(value: Any) -> list[Tensor]:
    """All tensors in what a module is given or returns."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [one for part in value.values() for one in tensors(part)]
    if isinstance(value, list | tuple):
        return [one for part in value for one in tensors(part)]
    return tensors(vars(value)) if hasattr(value, "__dataclass_fields__") else []


def autocast() -> str | None:
    """The type that operations are cast to at present, if any."""
    active = torch.is_autocast_enabled("cpu")
    return str(torch.get_autocast_dtype("cpu")).removeprefix("torch.") if active else None


def plain(value: Any) -> Option:
    """A hyper-parameter as JSON can hold it."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else str(tuple(value.shape))
    if isinstance(value, tuple | list):
        return tuple(plain(part) for part in value)
    return value if isinstance(value, int | float | bool | str) or value is None else str(value)

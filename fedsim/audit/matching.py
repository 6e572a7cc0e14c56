"""Which array is which entry of the model's state: by name, by name but for a wrapper's prefix, or by place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

PREFIXES = ("module.", "_module.", "_orig_mod.", "model.", "net.")
"""What `DataParallel`, Opacus, `torch.compile` and a module of one's own put before every name."""


class Unusable(Exception):
    """A reply cannot be audited; the message says why, in one line."""


def aligned(arrays: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Arrays by the names of the model's state, floating-point ones in float32.

    Names that are numbers are places in the state, or among the parameters where there are as many, as a list of NumPy
    arrays has them. Entries of the state may be missing: see `missing`.

    Raises:
        Unusable: arrays that the model does not have, of another shape or kind, or not finite.
    """
    own = model.state_dict()
    found: dict[str, Tensor] = {}
    for name, value in _named(arrays, model).items():
        expected = own[name]
        if value.shape != expected.shape:
            raise Unusable(f"{name} has shape {_shape(value)}, the model's has {_shape(expected)}")
        if value.is_complex() or value.is_floating_point() != expected.is_floating_point():
            raise Unusable(f"{name} is {_kind(value)}, the model's is {_kind(expected)}")
        if value.is_floating_point() and not value.isfinite().all():
            raise Unusable(f"{name} holds NaN or infinity")
        found[name] = value.float() if value.is_floating_point() and value.dtype != torch.float64 else value
    return {name: found[name] for name in own if name in found}


def missing(arrays: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """Entries of the model's state that aligned arrays leave out."""
    return [name for name in model.state_dict() if name not in arrays]


def precision_of(arrays: Mapping[str, Tensor]) -> str:
    """The least precise floating-point type among arrays, by its name."""
    kinds = [value.dtype for value in arrays.values() if value.is_floating_point()]
    coarsest = max(kinds, key=lambda kind: torch.finfo(kind).eps, default=torch.float32)
    return str(coarsest).removeprefix("torch.")


def entry_names(arrays: Mapping[str, Tensor], model: nn.Module) -> dict[str, str]:
    """From the name of each array to that of the entry of the model's state that it is.

    Raises:
        Unusable: arrays that the model does not have, or without names and in another order.
    """
    own = model.state_dict()
    if not arrays:
        raise Unusable("holds no arrays")
    if arrays.keys() <= own.keys():
        return {name: name for name in arrays}
    for prefix in PREFIXES:
        bare = {name: name.removeprefix(prefix) for name in arrays if name.startswith(prefix)}
        if len(bare) == len(arrays) and set(bare.values()) <= own.keys():
            return bare
    if all(name.isdigit() for name in arrays):
        return _placed(arrays, model)
    foreign = [name for name in arrays if name not in own]
    lacking = [name for name in own if name not in arrays]
    hint = f"; the model has {lacking[0]}" if lacking else ""
    raise Unusable(f"{len(foreign)} of {len(arrays)} arrays are none of the model's ({foreign[0]}{hint})")


def _placed(arrays: Mapping[str, Tensor], model: nn.Module) -> dict[str, str]:
    own = model.state_dict()
    numbers = sorted(arrays, key=int)
    for candidates in (list(own), [name for name, _ in model.named_parameters()]):
        if len(candidates) == len(numbers):
            pairs = dict(zip(numbers, candidates, strict=True))
            odd = next((number for number, name in pairs.items() if own[name].shape != arrays[number].shape), None)
            if odd is not None:
                raise Unusable(
                    f"array {numbers.index(odd)} has shape {_shape(arrays[odd])}, where the model has {pairs[odd]} of "
                    f"{_shape(own[pairs[odd]])}: arrays without names must lie in the order of its state"
                )
            return pairs
    raise Unusable(f"{len(numbers)} arrays without names, where the model's state has {len(own)} entries")


def _named(arrays: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    own, unnamed = model.state_dict(), all(name.isdigit() for name in arrays)
    names = entry_names(arrays, model)
    return {
        entry: _like(own[entry], arrays[name]) if unnamed and name != entry else arrays[name]
        for name, entry in names.items()
    }


def _like(expected: Tensor, value: Tensor) -> Tensor:
    """A list of NumPy arrays averages counters to floats."""
    return value if expected.is_floating_point() or not value.is_floating_point() else value.to(expected.dtype)


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "no axes"


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")

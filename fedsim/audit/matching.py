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


def _named(arrays: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    own = model.state_dict()
    if not arrays:
        raise Unusable("holds no arrays")
    if arrays.keys() <= own.keys():
        return dict(arrays)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in arrays):
            bare = {name.removeprefix(prefix): value for name, value in arrays.items()}
            if bare.keys() <= own.keys():
                return bare
    if all(name.isdigit() for name in arrays):
        return _placed([arrays[name] for name in sorted(arrays, key=int)], model)
    foreign = [name for name in arrays if name not in own]
    lacking = [name for name in own if name not in arrays]
    hint = f"; the model has {lacking[0]}" if lacking else ""
    raise Unusable(f"{len(foreign)} of {len(arrays)} arrays are none of the model's ({foreign[0]}{hint})")


def _placed(values: list[Tensor], model: nn.Module) -> dict[str, Tensor]:
    own = model.state_dict()
    names = [name for name, _ in model.named_parameters()]
    for candidates in (list(own), names):
        if len(candidates) == len(values):
            odd = next((place for place, name in enumerate(candidates) if own[name].shape != values[place].shape), None)
            if odd is not None:
                raise Unusable(
                    f"array {odd} has shape {_shape(values[odd])}, where the model has {candidates[odd]} of "
                    f"{_shape(own[candidates[odd]])}: arrays without names must lie in the order of its state"
                )
            return {name: _like(own[name], value) for name, value in zip(candidates, values)}
    raise Unusable(f"{len(values)} arrays without names, where the model's state has {len(own)} entries")


def _like(expected: Tensor, value: Tensor) -> Tensor:
    """A list of NumPy arrays averages counters to floats."""
    return value if expected.is_floating_point() or not value.is_floating_point() else value.to(expected.dtype)


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "no axes"


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")

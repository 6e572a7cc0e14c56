"""What the entries of a model's state are to a federation: trained, frozen, or a buffer.

The names of a state dict are not those of `named_parameters`: weights that are tied stand in it under each of their
names, and a parameter that requires no gradient is none that a client trains.
"""

from __future__ import annotations

from torch import nn


def trained(model: nn.Module) -> dict[str, str]:
    """Every entry of the state that training changes, and the name of the parameter that it is.

    Tied weights have several entries and one name, the first, which is the one that `named_parameters` gives them.
    """
    return {entry: name for entry, name in _parameters(model).items() if model.get_parameter(name).requires_grad}


def frozen(model: nn.Module) -> frozenset[str]:
    """The entries of the state that are parameters, and stay as they were sent."""
    return frozenset(_parameters(model).keys() - trained(model).keys())


def buffers(model: nn.Module) -> frozenset[str]:
    """The entries of the state that are no parameters."""
    return frozenset(model.state_dict().keys() - _parameters(model).keys())


def _parameters(model: nn.Module) -> dict[str, str]:
    first = {id(parameter): name for name, parameter in reversed(list(model.named_parameters(remove_duplicate=False)))}
    return {entry: first[id(value)] for entry, value in model.named_parameters(remove_duplicate=False)}

"""A model class that was not written for fedsim: called with what it asks for, and its output taken out of what it
returns.

A factory of ours is called with `input_shape` and `classes`. Somebody else's `Net` asks for neither, or for
`num_classes`; a model of Hugging Face returns a dataclass. A specification says so by the key `foreign`:

    {"factory": "my_app.task:Net", "foreign": {"output": "logits", "loss": ""}, ...}
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.errors import on_one_line
from fedsim.models import factory

OURS: dict[str, Callable[[tuple[int, int, int], int], Any]] = {
    "input_shape": lambda shape, classes: shape,
    "classes": lambda shape, classes: classes,
    "num_classes": lambda shape, classes: classes,
}
"""Arguments without a default that we know the value of."""


def make(constructor: Any, keys: Mapping[str, Any], *, input_shape: tuple[int, int, int], classes: int) -> Any:
    """What a class or function makes, or a copy of a module that was made already.

    Args:
        keys: arguments that the user gives; those of `OURS` that it insists on are added.

    Raises:
        TypeError: an argument that it does not take, or one that nobody gave.
    """
    if isinstance(constructor, nn.Module):
        if keys:
            raise TypeError(f"is a module already, which takes no {', '.join(keys)}")
        return copy.deepcopy(constructor)
    signature = inspect.signature(constructor)
    asked = {name for name, p in signature.parameters.items() if p.default is p.empty}
    given = {name: value(input_shape, classes) for name, value in OURS.items() if name in asked} | dict(keys)
    try:
        signature.bind(**given)
    except TypeError as error:
        listed = ", ".join(signature.parameters) or "nothing"
        raise TypeError(f"{error}; it takes {listed}: give the values by --model-arg NAME=VALUE") from error
    return constructor(**given)


def trained_by(model: nn.Module, loss: str) -> nn.Module:
    """The model, in place, trained by another loss than the cross-entropy.

    Args:
        loss: `package.module:function` of outputs (B, K) and class indices (B,), to the mean; or a class without
            arguments that makes one, as `torch.nn:MultiMarginLoss`. Empty: the cross-entropy.

    Raises:
        BadInput: it cannot be imported.
        TypeError, ValueError: it does not make a number of a batch.
    """
    if loss:
        made = factory.load(loss)
        try:
            function = made() if isinstance(made, type) else made
            tried = function(torch.zeros(2, 2), torch.tensor([0, 1]))
        except Exception as error:  # it is the user's own
            said = on_one_line(error)
            raise ValueError(f"--loss {loss}: cannot be called with outputs and labels ({said})") from error
        if not isinstance(tried, Tensor) or tried.dim():
            raise ValueError(f"--loss {loss}: makes no single number of a batch, as a mean does")
        object.__setattr__(model, "own_loss", function)  # no submodule: the state stays as it is
    return model


def taking(model: nn.Module, output: str) -> nn.Module:
    """The model, in place, with one tensor of logits as its output; names of its state stay as they are.

    Args:
        output: the field, key or place of the logits in what it returns; empty where it returns them alone.
    """
    model.register_forward_hook(_Picked(output))
    return model


class _Picked:
    """A forward hook; a class, since a model is copied with its hooks."""

    def __init__(self, output: str) -> None:
        self.output = output

    def __call__(self, module: nn.Module, inputs: Any, returned: Any) -> Tensor:
        if not self.output:
            if isinstance(returned, Tensor):
                return returned
            raise ValueError(f"returned {_described(returned)}, not a tensor: say by --output which are the logits")
        found = _part(returned, self.output)
        if not isinstance(found, Tensor):
            raise ValueError(f"returned {_described(returned)}, of which {self.output!r} is no tensor")
        return found


def _part(returned: Any, name: str) -> Any:
    if isinstance(returned, Mapping):
        return returned.get(name)
    if isinstance(returned, tuple | list) and name.isdigit():
        return returned[int(name)] if int(name) < len(returned) else None
    return getattr(returned, name, None) if name.isidentifier() else None


def _described(returned: Any) -> str:
    """`a ViTOutput of logits, hidden_states`."""
    if isinstance(returned, Mapping):
        parts = [str(name) for name in returned]
    elif isinstance(returned, tuple | list) and not hasattr(returned, "_fields"):
        parts = [str(place) for place in range(len(returned))]
    else:
        parts = [name for name in (getattr(returned, "_fields", None) or vars_of(returned)) if not name.startswith("_")]
    return f"a {type(returned).__name__}" + (f" of {', '.join(parts[:8])}" if parts else "")


def vars_of(value: Any) -> list[str]:
    return list(vars(value)) if hasattr(value, "__dict__") else []


def check_input(model: nn.Module, example: Tensor) -> None:
    """Raise TypeError, with the way out, for a model that takes no plain tensor of images.

    Whatever else goes wrong in it is left to be found, and named, where it is tried in earnest.
    """
    mode = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    except (TypeError, AttributeError, KeyError, IndexError) as error:
        if any(words in str(error) for words in _NO_TENSOR):
            raise TypeError(
                f"its forward takes something else than one tensor of images ({on_one_line(error)}): a dict, or "
                "several inputs; give --model a function that returns a module with forward(images)"
            ) from error
    except Exception:
        pass
    finally:
        model.train(mode)


_NO_TENSOR = (
    "data type 'str'",
    "too many indices",
    "missing 1 required positional",
    "required positional arguments",
    "has no attribute 'keys'",
    "has no attribute 'items'",
    "has no attribute 'get'",
    "argument after ** must be a mapping",
)

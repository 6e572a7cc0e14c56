"""Dropout that a model calls as a function, `F.dropout(x, 0.5, self.training)`, made a layer of the module that calls.

So is the dropout inside of attention (`defenses.stochastic.attended`).

The k-th call within a module's `forward` becomes the child `functional_dropout_<k>` of that module: a site with a name,
that can be recorded, replayed and optimised like any other. The module's class is replaced by one of its own that
diverts these calls, so that copies and `functional_call` keep what was made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from defenses.stochastic.attended import DROPOUT, MULTI_HEAD, attended, inside, rate_of
from defenses.stochastic.dropout import AlphaDropout, Dropout, FeatureAlphaDropout, FeatureDropout

FUNCTIONS: Mapping[Any, Callable[[float], Dropout]] = {
    F.dropout: Dropout,
    F.dropout1d: partial(FeatureDropout, batched=3),
    F.dropout2d: FeatureDropout,
    F.dropout3d: partial(FeatureDropout, batched=5),
    F.alpha_dropout: AlphaDropout,
    F.feature_alpha_dropout: FeatureAlphaDropout,
}
"""The functions of torch, and our layer of the same meaning."""


class Unmade(RuntimeError):
    """A module calls dropout as a function where it did not before."""


def child(number: int) -> str:
    """The name of the layer that stands for the call of this number within one `forward`."""
    return f"functional_dropout_{number}"


def is_a_call(path: str) -> bool:
    """Whether a layer's path is that of one that stands for a call."""
    return path.rpartition(".")[2].startswith(child(0)[:-1])


def called(function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[Tensor, float, bool] | None:
    """The input of a call of functional dropout, its rate, whether it is in place; None where nothing is dropped."""
    if function not in FUNCTIONS:
        return None
    bound = inspect.signature(function).bind(*arguments, **keywords)
    bound.apply_defaults()
    given = bound.arguments
    if not given["training"] or not given["p"]:
        return None
    return given["input"], float(given["p"]), bool(given["inplace"])


def made_explicit(model: nn.Module, example: Tensor) -> list[str]:
    """Give each module that calls dropout as a function layers of its own to call instead, in place.

    Args:
        example: an input (B, ...); one forward pass of it in training mode shows the calls.

    Returns:
        the paths of the layers that were made; none a second time.
    """
    found: dict[str, list[tuple[Any, float]]] = {}
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    device = [example.device] if example.device.type == "cuda" else []
    model.train()
    try:
        with torch.random.fork_rng(device), torch.no_grad(), _running(model) as stack, _Listen(stack, found):
            torch.func.functional_call(model, buffers, (example,))
    finally:
        for module, mode in modes.items():
            module.training = mode
    made = []
    for path, calls in found.items():
        module = model.get_submodule(path)
        module.__class__ = type(type(module).__name__, (_Diverting, type(module)), {})
        cast(_Diverting, module).called_rates = [rate for _, rate in calls]
        for number, (function, rate) in enumerate(calls):
            module.add_module(child(number), FUNCTIONS[function](rate).train(module.training))
            made.append(f"{path}.{child(number)}".lstrip("."))
    return made


class _Diverting(nn.Module):
    """A module whose calls of functional dropout go to its own layers.

    Attributes:
        called_rates: of each call in its `forward`; a layer's own may be set to another, as where it is not told.
    """

    called_rates: list[float]

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        with _Divert(self):
            return super().forward(*arguments, **keywords)


def is_explicit(module: nn.Module) -> bool:
    """Whether what a module calls as a function was made layers of its own."""
    return isinstance(module, _Diverting)


class _Divert(TorchFunctionMode):
    def __init__(self, module: _Diverting) -> None:
        super().__init__()
        self._module, self._calls = module, 0

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        return self._handle(function, arguments, keywords or {})

    def _handle(self, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        if function is MULTI_HEAD:
            return inside(self._handle, arguments, keywords)
        if rate := rate_of(function, arguments, keywords):
            return attended(self._next(function, rate), arguments, keywords)
        call = called(function, arguments, keywords)
        if call is None:
            return function(*arguments, **keywords)
        x, rate, in_place = call
        dropped = self._next(function, rate)(x)
        return x.copy_(dropped) if in_place else dropped

    def _next(self, function: Any, rate: float) -> nn.Module:
        """The layer that stands for the call whose turn it is."""
        rates, number = self._module.called_rates, self._calls
        self._calls += 1
        if number >= len(rates) or rates[number] != rate:
            name = type(self._module).__name__
            raise Unmade(f"{name} calls {function.__name__} at the rate {rate:g} where it did not before")
        return cast(nn.Module, getattr(self._module, child(number)))


class _Listen(TorchFunctionMode):
    """Notes which modules call functional dropout; those whose layers torch has made are passed over."""

    def __init__(self, stack: list[tuple[str, nn.Module]], found: dict[str, list[tuple[Any, float]]]) -> None:
        super().__init__()
        self._stack, self._found = stack, found

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        return self._handle(function, arguments, keywords or {})

    def _handle(self, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        if function is MULTI_HEAD:
            return inside(self._handle, arguments, keywords)
        path, module = self._stack[-1]
        if rate := rate_of(function, arguments, keywords):
            self._found.setdefault(path, []).append((DROPOUT, rate))
        call = called(function, arguments, keywords)
        if call is not None and not isinstance(module, nn.modules.dropout._DropoutNd):
            self._found.setdefault(path, []).append((function, call[1]))
        return function(*arguments, **keywords)


@contextmanager
def _running(model: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """The stack of running modules, the innermost last."""
    stack: list[tuple[str, nn.Module]] = [("", model)]
    handles = []
    for path, module in model.named_modules():
        enter = partial(_enter, stack, path)
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(partial(_leave, stack), always_call=True))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def _enter(stack: list[tuple[str, nn.Module]], path: str, module: nn.Module, inputs: Any) -> None:
    stack.append((path, module))


def _leave(stack: list[tuple[str, nn.Module]], module: nn.Module, inputs: Any, output: Any) -> None:
    stack.pop()

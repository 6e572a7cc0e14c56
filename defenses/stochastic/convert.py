"""Make the randomness of any model explicit: `nn.Dropout*` and others' stochastic depth become our layers, and what
cannot is refused by name.

An attacker can only guess, and a test can only replay, what passes through a `StochasticLayer`. A random number drawn
anywhere else would make every comparison silently wrong, so the conversion looks for it twice: in the modules that are
known to draw, and, given an example input, in every operation of one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode

from defenses.stochastic.depth import DropPath
from defenses.stochastic.dropout import AlphaDropout, Dropout, FeatureAlphaDropout, FeatureDropout
from defenses.stochastic.functional import is_a_call, is_explicit, made_explicit
from defenses.stochastic.layer import StochasticLayer, record
from defenses.stochastic.repeated import made_apart

_EXPLICIT: dict[type[nn.Module], Callable[[float], Dropout]] = {
    nn.Dropout: Dropout,
    nn.Dropout1d: partial(FeatureDropout, batched=3),
    nn.Dropout2d: FeatureDropout,
    nn.Dropout3d: partial(FeatureDropout, batched=5),
    nn.AlphaDropout: AlphaDropout,
    nn.FeatureAlphaDropout: FeatureAlphaDropout,
}


class Inexplicit(ValueError):
    """A model draws random numbers that no stochastic layer holds; the message names the module."""


def convert(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """Replace every `nn.Dropout`, `Dropout1d`, `2d` and `3d`, `AlphaDropout` and `FeatureAlphaDropout` by an explicit
    layer of the same rate and mode, in place.

    So are subclasses that leave their `forward` as it is, and stochastic depth: a layer whose class is named
    `...DropPath` or `...StochasticDepth`, whoever wrote it, that is seen to do what its attributes say.

    Args:
        model: any module; a model that is itself a dropout layer is replaced, so use the returned one.
        example: an input (B, ...). With it, one forward pass in training mode finds dropout that is called as a
            function or drawn inside of attention (see `defenses.stochastic.functional`), which becomes layers too; a
            layer that is called several times becomes as many; and a last pass looks for all other randomness. B of
            at least 2 suits batch norm. Neither the model's state nor the global random state is changed by it.

    Returns:
        The model, all of whose randomness (with `example`: proven for this input) is in `stochastic_layers(model)`.

    Raises:
        Inexplicit: random numbers are drawn elsewhere (`torch.randn`, the rate inside `nn.LSTM`, ...), or a module that
            calls dropout as a function is run several times in a forward pass.
    """
    _refuse_shared(model)
    layers: dict[int, StochasticLayer] = {}  # one that stands in several places, and draws nothing, goes on doing so
    for path, module in list(model.named_modules(remove_duplicate=False)):
        _refuse_known(path, module, tried=example is not None)
        found = _explicit(path, module)
        if found is not None:
            layer = layers.setdefault(id(module), found)
            if not path:
                model = layer
            else:
                parent, _, child = path.rpartition(".")
                model.get_submodule(parent)._modules[child] = layer
    if example is not None:
        made_explicit(model, example)
        made_apart(model, _calls(model, example))
        check_explicit(model, example)
    return model


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """While open, the model is in training mode, and what its layers draw is noted."""
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        with record(model) as drawn:
            yield drawn
    finally:
        for module, mode in modes.items():
            module.training = mode


def _calls(model: nn.Module, example: Tensor) -> dict[str, int]:
    """How often each layer that stands in the place of the user's own draws in one forward pass in training mode."""
    with _recorded(model) as drawn:
        _passed(model, example)
    return {path: len(draws) for path, draws in drawn.items() if not is_a_call(path)}


def _counterpart(module: nn.Module) -> Callable[[float], Dropout] | None:
    """Our layer of the same meaning; None for other modules, and for a dropout that computes something of its own."""
    for known, ours in _EXPLICIT.items():
        if isinstance(module, known) and type(module).forward is known.forward:
            return ours
    return None


def _explicit(path: str, module: nn.Module) -> StochasticLayer | None:
    """Our layer in the place of a module, if it is one that draws what we can draw."""
    kind = _counterpart(module)
    if kind is not None:
        try:
            return kind(cast(float, module.p)).train(module.training)
        except ValueError as error:
            raise Inexplicit(f"{_named(path, module)}: {error}") from error
    return _depth(path, module).train(module.training) if drops_paths(module) else None


def drops_paths(module: nn.Module) -> bool:
    """Whether a module is stochastic depth by its name, as in timm, torchvision, transformers (`SwinDropPath`)."""
    named = type(module).__name__.endswith(("DropPath", "StochasticDepth"))
    known = named and not isinstance(module, StochasticLayer)
    return known and bool(_path_rate(module))


def _path_rate(module: nn.Module) -> float:
    return float(getattr(module, "drop_prob", getattr(module, "p", 0.0)) or 0.0)


def _depth(path: str, module: nn.Module) -> DropPath:
    """Its counterpart, once it was seen to act as that would: on ones, each example is dropped or scaled as a whole."""
    rate, per = _path_rate(module), "batch" if getattr(module, "mode", "row") == "batch" else "example"
    scaled = bool(getattr(module, "scale_by_keep", True))
    mode = module.training
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        seen = [module.train()(torch.ones(64, 2, 2)) for _ in range(16)] if 0 < rate < 1 else []
    module.train(mode)
    kept = 1 / (1 - rate) if scaled and rate < 1 else 1.0
    expected = torch.tensor([0.0, kept])
    whole = all(torch.equal(one, one[:, :1, :1].expand_as(one)) for one in seen)
    alike = per == "example" or all(torch.equal(one, one[:1].expand_as(one)) for one in seen)
    near = all(bool(torch.isclose(one[..., None], expected).any(-1).all()) for one in seen)
    draws = len(seen) * (1 if per == "batch" else 64)
    share = sum(float((one == 0).double().mean()) for one in seen) / max(1, len(seen))
    if not seen or not (whole and alike and near) or abs(share - rate) > 4 * (rate * (1 - rate) / draws) ** 0.5:
        raise Inexplicit(
            f"{_named(path, module)} does not drop whole branches at the rate {rate} that it names; use DropPath of "
            "defenses.stochastic in its place"
        )
    return DropPath(rate, "batch" if per == "batch" else "example", scaled=scaled)


def _refuse_shared(model: nn.Module) -> None:
    first: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        dropping = isinstance(module, StochasticLayer | _DropoutNd) and getattr(module, "p", 1) > 0
        if (dropping or drops_paths(module)) and first.setdefault(id(module), path) != path:
            raise Inexplicit(
                f"{_named(path, module)} is the same layer as {first[id(module)]!r}; each place needs its own"
            )


def _refuse_known(path: str, module: nn.Module, *, tried: bool) -> None:
    """Refuse the modules of torch that are known to draw inside, and dropout of a kind that we have no layer for.

    Args:
        tried: whether an example will show what attention drops, which becomes a layer then.
    """
    shown = isinstance(module, nn.MultiheadAttention) and (tried or is_explicit(module))
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase) and module.dropout > 0 and not shown:
        raise Inexplicit(
            f"{_named(path, module)} draws its dropout (rate {module.dropout}) inside; set it to 0, or write the layer "
            "with explicit dropout"
        )
    if isinstance(module, nn.RReLU):
        raise Inexplicit(f"{_named(path, module)} draws random slopes; use a deterministic activation")
    if isinstance(module, _DropoutNd) and _counterpart(module) is None and module.p > 0:
        base = next((kind for kind in _EXPLICIT if isinstance(module, kind)), None)
        if base is not None:
            raise Inexplicit(
                f"{_named(path, module)} overrides the forward of nn.{base.__name__}: what it draws is not known; "
                "derive it from a layer of defenses.stochastic"
            )
        known = ", ".join(f"nn.{kind.__name__}" for kind in _EXPLICIT)
        raise Inexplicit(f"{_named(path, module)} has no explicit counterpart; these have: {known}")


def _named(path: str, module: nn.Module) -> str:
    return f"module {path!r} ({type(module).__name__})" if path else f"the model itself ({type(module).__name__})"


def check_explicit(model: nn.Module, example: Tensor) -> None:
    """Raise `Inexplicit` unless all randomness of one forward pass in training mode is in one draw of each layer.

    Layers that a defense put into the model must draw, or it would do nothing.
    """
    with _recorded(model) as drawn:
        refuse_hidden(model, example)
    for path, draws in drawn.items():
        layer = model.get_submodule(path)
        if not draws and isinstance(layer, StochasticLayer) and layer.added and not layer.idle:
            raise Inexplicit(
                f"{_named(path, layer)} is where a defense put it, but nothing passes there in a forward pass, as in "
                "attention that is computed by a fused kernel; switch that off"
            )
        if len(draws) > 1:
            raise Inexplicit(
                f"{_named(path, model.get_submodule(path))} is called {len(draws)} times in one forward pass; each "
                "call needs a layer of its own"
            )


def refuse_hidden(model: nn.Module, example: Tensor) -> None:
    """Pass an example (B, ...) through a model in the mode that it is in, and leave it as it was.

    Raises:
        Inexplicit: random numbers are drawn outside of stochastic layers.
    """
    stack: list[tuple[str, nn.Module]] = [("", model)]
    with _following(model, stack), _Watch(stack):
        _passed(model, example)


def _passed(model: nn.Module, example: Tensor) -> None:
    """One forward pass of an example, which leaves the model's state and the global random state as they were."""
    device = [example.device] if example.device.type == "cuda" else []
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(device), torch.no_grad():
        torch.func.functional_call(model, buffers, (example,))  # batch norm writes to the copies


class _Watch(TorchDispatchMode):
    """Refuses every operation that draws random numbers, unless a stochastic layer is the innermost module running."""

    def __init__(self, stack: list[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.stack = stack

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nobody compiles this; True, the default, would have the whole compiler imported, for a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        path, module = self.stack[-1]
        if draws(func, args, kwargs or {}) and not isinstance(module, StochasticLayer):
            raise Inexplicit(
                f"{_named(path, module)} draws random numbers in its forward pass ({func}); use a layer of "
                "defenses.stochastic, or nn.Dropout, in its place"
            )
        return func(*args, **(kwargs or {}))


def draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    for index, argument in enumerate(func._schema.arguments):  # fused attention carries the tag at any rate
        if argument.name == "dropout_p":
            given = args[index] if index < len(args) else kwargs.get("dropout_p", argument.default_value)
            return bool(given)
    return True


@contextmanager
def _following(model: nn.Module, stack: list[tuple[str, nn.Module]]) -> Iterator[None]:
    """Keep the stack of running modules."""

    def entering(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            stack.append((path, module))

        return hook

    def leaving(module: nn.Module, inputs: Any, output: Any) -> None:
        stack.pop()

    handles = [
        handle
        for path, module in model.named_modules()
        for handle in (
            module.register_forward_pre_hook(entering(path)),
            module.register_forward_hook(leaving, always_call=True),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

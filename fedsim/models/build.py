"""From a scenario's `model` block to a module: constructed, initialised by a seed, converted, tried on one input."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

import attacks
from attacks.malicious import MaliciousAttack
from defenses import compose
from defenses.registry import parameters as _constructor_parameters
from defenses.stochastic import Dropout, check_explicit, convert, stochastic_layers
from defenses.stochastic.functional import made_explicit
from fedsim.errors import BadInput
from fedsim.models import factory, foreign
from fedsim.models.checks import check_size
from fedsim.models.efficientnet_lite0 import EfficientNetLite0
from fedsim.models.lenet import LeNet
from fedsim.models.mlp import MLP
from fedsim.models.resnet18 import ResNet18
from fedsim.models.vit import ViT
from fedsim.models.vit_b16 import ViTB16
from fedsim.random import seed_for, seeded_torch

_OURS = ("dropout", "defenses", "resting", "malicious", "foreign")
"""Keys of a specification that no constructor is given."""

MODELS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "lenet": LeNet,
    "resnet18": ResNet18,
    "vit": ViT,
    "vit_b16": ViTB16,
    "efficientnet_lite0": EfficientNetLite0,
}


def names() -> list[str]:
    """The bundled models."""
    return list(MODELS)


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """The keys, besides `dropout`, that a scenario may set for a bundled model."""
    return {
        key: value for key, value in _constructor_parameters(_bundled(name)).items() if value.kind is value.KEYWORD_ONLY
    }


def build(
    spec: Mapping[str, Any], *, input_shape: tuple[int, int, int], classes: int, seed: int | None = None
) -> nn.Module:
    """A model in training mode, all of whose randomness is in stochastic layers.

    Args:
        spec: `{"name": "mlp", **keys}` or `{"factory": "package.module:function", **keys}`; the keys go to the
            constructor or to the factory, which is called with `input_shape` and `classes` besides. The key `dropout`
            sets the rate of all dropout layers; None or absent leaves the model's own. The key `defenses` lists
            specifications of defenses, whose `on_model` is applied; with `resting` what they draw is at rest. The key
            `malicious` is the specification of an attack whose server adds to the model (`on_model`). The key
            `foreign` (see `fedsim.models.foreign`) says that the factory is a class that was not written for fedsim.
        input_shape: (C, H, W).
        seed: of the initial weights; the global random state is left alone. None draws them from it.

    Raises:
        BadInput: unknown name or key, a value that the model refuses, a factory that cannot be imported or called,
            hidden randomness, or logits of the wrong shape.
    """
    label, make = _constructor(spec)
    keys = {key: value for key, value in spec.items() if key not in _OURS and key not in ("name", "factory")}
    explained = partial(_located, make) if "factory" in spec else _explained
    with explained(label, ValueError, TypeError, RuntimeError), _seeded(seed):  # torch: no memory for such a width
        if "factory" not in spec:
            check_size(make, {"input_shape": input_shape, "classes": classes, **keys})
        if "foreign" in spec:
            model = foreign.make(make, keys, input_shape=input_shape, classes=classes)
        else:
            model = _call(make, {"input_shape": input_shape, "classes": classes, **keys})
    if not isinstance(model, nn.Module):
        raise BadInput(f"{label}: returned {type(model).__name__}, not a torch.nn.Module")
    model.train()
    example = _example(model, input_shape)
    tried = f"{label}, tried on images of shape {tuple(example.shape)}"
    with explained(tried, Exception):
        if "foreign" in spec:
            model = foreign.taking(model, str(spec["foreign"].get("output", "")))
            model = foreign.trained_by(model, str(spec["foreign"].get("loss", "")))
            foreign.check_input(model, example)
        model = convert(model)
        if "factory" in spec:
            made_explicit(model, example)
    if spec.get("dropout") is not None:
        _set_dropout(label, model, spec["dropout"])
    model = _defended(model, spec, seed)
    if spec.get("malicious") is not None:
        with _seeded(None if seed is None else seed_for(seed, "malicious weights")):
            model = malicious_attack(spec["malicious"]).on_model(model, input_shape=input_shape)
    with explained(tried, Exception):
        check_explicit(model, example)  # at the rate that is set: a layer of rate 0 draws nothing, however often called
        _check_logits(model, example, classes)
    return model


def _defended(model: nn.Module, spec: Mapping[str, Any], seed: int | None) -> nn.Module:
    """The model with what defenses make of it; new parameters are drawn by the defense's name. ValueError: refused."""
    own = stochastic_layers(model).keys()
    for described in spec.get("defenses", ()):
        with _seeded(None if seed is None else seed_for(seed, "defense weights", defense=described["name"])):
            model = compose([described]).on_model(model)
    if spec.get("resting"):
        for path, layer in stochastic_layers(model).items():
            layer.resting = path not in own
    return model


def malicious_attack(spec: Mapping[str, Any]) -> MaliciousAttack:
    """The attack of a server that changes the model, of its specification."""
    attack = attacks.create(**spec)
    if not isinstance(attack, MaliciousAttack):
        raise BadInput(f"{spec['name']} is no attack of a malicious server")
    return attack


def effective_dropout(model: nn.Module) -> float:
    """The rate of a model's own dropout layers, the largest where they differ; 0 without any."""
    own = (layer for layer in stochastic_layers(model).values() if isinstance(layer, Dropout) and not layer.added)
    return max((layer.p for layer in own), default=0.0)


def _bundled(name: str) -> type[nn.Module]:
    if name not in MODELS:
        close = difflib.get_close_matches(str(name), MODELS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise BadInput(f"unknown model {name!r}{hint} (known: {', '.join(MODELS)}, or a factory)")
    return MODELS[name]


def _constructor(spec: Mapping[str, Any]) -> tuple[str, Callable[..., Any]]:
    """What to call the model in a message, and what makes it."""
    if ("name" in spec) == ("factory" in spec):
        raise BadInput("model: give either a name or a factory")
    if "name" in spec:
        return f"model {spec['name']!r}", _bundled(spec["name"])
    return f"model factory {spec['factory']!r}", factory.load(str(spec["factory"]))


def _call(make: Callable[..., Any], keys: dict[str, Any]) -> Any:
    signature = inspect.signature(make)
    try:
        signature.bind(**keys)
    except TypeError as error:
        accepted = [name for name in signature.parameters if name not in ("input_shape", "classes")]
        raise TypeError(f"{error} (it is called with input_shape, classes and the keys of {accepted})") from error
    return make(**keys)


@contextmanager
def _explained(label: str, *kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise BadInput(f"{label}: {_first_line(error)}") from error


def _located(make: Callable[..., Any], label: str, *kinds: type[Exception]) -> AbstractContextManager[None]:
    """Like `_explained`, of the user's own code: that may raise anything, and its place is named."""
    return factory.located(label, getattr(sys.modules.get(make.__module__), "__file__", None))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _seeded(seed: int | None) -> AbstractContextManager[None]:
    return nullcontext() if seed is None else seeded_torch(seed)


def _example(model: nn.Module, input_shape: tuple[int, int, int]) -> torch.Tensor:
    """Two grey images, of the model's type and on its device; two, because batch norm cannot do with one."""
    reference = next(model.parameters(), torch.empty(()))
    return torch.zeros(2, *input_shape, dtype=reference.dtype, device=reference.device)


def _check_logits(model: nn.Module, example: torch.Tensor, classes: int) -> None:
    model.eval()
    with torch.no_grad():
        logits = model(example)
    model.train()
    if not isinstance(logits, torch.Tensor) or logits.shape != (len(example), classes):
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"returned {found}, not logits of shape {(len(example), classes)}")


def _set_dropout(label: str, model: nn.Module, p: float) -> None:
    layers = [layer for layer in stochastic_layers(model).values() if isinstance(layer, Dropout)]
    if not 0 <= p < 1:
        raise BadInput(f"{label}: dropout = {p} is not in [0, 1)")
    if p > 0 and not layers:
        raise BadInput(f"{label}: has no dropout layer, so its rate cannot be set to {p}")
    for layer in layers:
        layer.p = p

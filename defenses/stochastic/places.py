"""Where a defense puts stochastic layers into any model, so that the model's parameters keep their names.

A layer becomes a child of the module that it stands before, behind or around, which calls it by a hook. What another
defense has put there stays; the later one acts further out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from defenses.stochastic.bottleneck import Last
from defenses.stochastic.dropout import Dropout
from defenses.stochastic.experts import Experts
from defenses.stochastic.layer import StochasticLayer

BLOCKS = {
    frozenset(("attention", "feed_forward")): ("attention", "feed_forward"),
    frozenset(("conv2", "norm2", "shortcut")): ("norm2",),
    frozenset(("conv3", "bn3", "downsample")): ("bn3",),
    frozenset(("conv2", "bn2", "downsample")): ("bn2",),
    frozenset(("conv2", "bn2", "shortcut")): ("bn2",),
}
"""By the names of some of a residual block's modules, those whose outputs are added: of the bundled `vit` and
`resnet18`, of torchvision's ResNets, and of those usual on CIFAR."""

EXPERTS = {
    frozenset(("linear1", "linear2")): ("linear1", "linear2"),
    frozenset(("fc1", "fc2")): ("fc1", "fc2"),
    frozenset(("linear", "activation", "dropout")): ("linear", "dropout"),
}
"""By the names of some of a feed-forward block's modules, the layer whose outputs are its hidden units, and the module
that is given what they compute: of the bundled `vit` and torch's encoders, of timm's, and of the bundled `mlp`."""


def before(module: nn.Module, name: str, layer: StochasticLayer) -> None:
    """Let a layer act on a module's first input."""
    module.register_forward_pre_hook(partial(_entering, _adopted(module, name, layer)))


def behind(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Let a layer act on a module's output."""
    child = _adopted(module, name, layer)
    if type(module).forward is not nn.Sequential.forward:  # which calls its children by itself
        module.register_forward_hook(partial(_leaving, child))


def around(module: nn.Module, name: str, layer: StochasticLayer) -> None:
    """Let a layer choose between a module's input and output, of one shape (B, ...): it is given both (B, 2, ...)."""
    module.register_forward_hook(partial(_choosing, _adopted(module, name, layer)))


def weighing(first: nn.Linear, last: nn.Module, name: str, layer: Experts) -> None:
    """Let a layer act on a module's first input, beside what its router says of what entered another before."""
    said = Last()
    child = _adopted(last, name, layer)
    first.register_forward_pre_hook(partial(_routing, layer, said))
    last.register_forward_pre_hook(partial(_weighed, child, said))


def inner_convolutions(model: nn.Module) -> Sequence[nn.Module]:
    """All convolutions but the first, which sees the image itself."""
    return [module for module in model.modules() if isinstance(module, _ConvNd)][1:]


def between_convolutions(model: nn.Module) -> tuple[nn.Module, int] | None:
    """The last layer before the second convolution, by which all has passed that the first one saw, and the channels of
    its output; None where there are no two convolutions."""
    layers = list(model.modules())
    places = [at for at, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    if len(places) < 2:
        return None
    first, second = places[:2]
    own = [layer for layer in layers[first + 1 : second] if not (isinstance(layer, StochasticLayer) and layer.added)]
    alone = [layer for layer in own if not any(True for _ in layer.children())]
    convolution = layers[first]
    assert isinstance(convolution, nn.Conv2d)
    return [convolution, *alone][-1], convolution.out_channels


def replace_layers(model: nn.Module, counterpart: Callable[[nn.Module], nn.Module | None]) -> nn.Module | None:
    """The model with each layer that has a counterpart replaced by it, in place; None where none has."""
    found = {path: counterpart(layer) for path, layer in model.named_modules()}
    replaced = {path: layer for path, layer in found.items() if layer is not None}
    for path, layer in replaced.items():
        before = model.get_submodule(path)  # what another defense has hung on it stays there
        layer._modules.update(before._modules)
        layer._forward_pre_hooks.update(before._forward_pre_hooks)
        layer._forward_hooks.update(before._forward_hooks)
        if not path:
            return layer
        parent, _, child = path.rpartition(".")
        model.get_submodule(parent)._modules[child] = layer
    return model if replaced else None


def linears(model: nn.Module) -> list[nn.Linear]:
    """All linear layers that compute by themselves; that of `nn.MultiheadAttention` does not."""
    inside = {id(module.out_proj) for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    return [module for module in model.modules() if isinstance(module, nn.Linear) and id(module) not in inside]


def inner_linears(model: nn.Module) -> list[nn.Linear]:
    """The same, but for one that is the first layer with weights of its kind, and sees the image itself."""
    first = next((module for module in model.modules() if isinstance(module, nn.Linear | _ConvNd)), None)
    return [module for module in linears(model) if module is not first]


def dropouts(model: nn.Module) -> list[Dropout]:
    """The dropout layers of the model itself, whatever their rate."""
    return [module for module in model.modules() if isinstance(module, Dropout) and not module.added]


def head(model: nn.Module) -> nn.Linear | None:
    """The last linear layer, whatever a defense has put into it."""
    named = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    inner = {path for path in named if any(path.startswith(f"{other}.") for other in named if other)}
    return next((named[path] for path in reversed(list(named)) if path not in inner), None)


def expert_layers(model: nn.Module) -> list[tuple[str, nn.Linear, nn.Module]]:
    """Of each feed-forward block the path of the layer that computes its hidden units, that layer, and the module that
    is given them."""
    found = []
    for path, block in model.named_modules():
        children = dict(block.named_children())
        said = getattr(block, "expert_layers", None)
        names = said if isinstance(said, tuple) and len(said) == 2 else ()
        if not names:
            names = next((pair for known, pair in EXPERTS.items() if known <= children.keys()), ())
        if names:
            first = _child(block, names[0])
            if not isinstance(first, nn.Linear):
                raise ValueError(f"{type(block).__name__} names {names[0]!r} for its experts, which is no nn.Linear")
            found.append((f"{path}.{names[0]}" if path else names[0], first, _child(block, names[1])))
    return found


def attention_weights(model: nn.Module) -> list[nn.Module]:
    """The modules whose outputs are attention weights: of a known name, or that of an attribute of their parents."""
    found = []
    for module in model.modules():
        children = dict(module.named_children())
        known = [name for name in ("attention_dropout", "attn_drop") if name in children]
        said = getattr(module, "attention_weights", None)
        found += [_child(module, name) for name in ([said] if isinstance(said, str) else known)]
    return found


def tokens(model: nn.Module) -> nn.Module | None:
    """The module whose output is all tokens with their positions (B, N, D)."""
    children = dict(model.named_children())
    said = getattr(model, "tokens", None)
    name = said if isinstance(said, str) else next((n for n in ("positions", "pos_drop") if n in children), None)
    return None if name is None else _child(model, name)


def branches(block: nn.Module) -> list[nn.Module]:
    """The modules of a residual block whose outputs are added to its shortcut; none of any other module."""
    names: tuple[str, ...] = tuple(getattr(block, "residual_branches", ()))
    if not names:  # a shortcut that computes nothing may be None, which is no child
        found = (last for known, last in BLOCKS.items() if all(hasattr(block, name) for name in known))
        names = next(found, ())
    return [_child(block, name) for name in names]


def keeps_shape(block: nn.Module) -> bool:
    """Whether a residual block's shortcut computes nothing, as far as it has one of a known name."""
    shortcuts = [getattr(block, name, None) for name in ("shortcut", "downsample")]
    computing = [shortcut for shortcut in shortcuts if not isinstance(shortcut, nn.Identity | None)]
    return all(isinstance(shortcut, nn.Sequential) and not len(shortcut) for shortcut in computing)


def _child(module: nn.Module, name: str) -> nn.Module:
    found = dict(module.named_modules()).get(name)
    if found is None:
        raise ValueError(f"{type(module).__name__} names {name!r} as a place for a defense, and has no such module")
    return found


def _adopted(module: nn.Module, name: str, layer: nn.Module) -> str:
    taken = dict(module.named_children())
    child = next(each for each in _numbered(name) if each not in taken)
    if isinstance(layer, StochasticLayer):
        layer.added = True
    module.add_module(child, layer.train(module.training))
    return child


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _entering(child: str, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (module.get_submodule(child)(inputs[0]), *inputs[1:])


def _routing(layer: Experts, said: Last, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    said.value = layer.logits(inputs[0])


def _weighed(child: str, said: Last, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    assert said.value is not None, "what computes the units is called before what they go to"
    return (module.get_submodule(child)(torch.cat([said.value, inputs[0]], dim=-1)), *inputs[1:])


def _leaving(child: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    acted: Tensor = module.get_submodule(child)(output)
    return acted


def _choosing(child: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    if inputs[0].shape != output.shape:
        raise ValueError(f"{child}: a block changes the shape, {tuple(inputs[0].shape)} to {tuple(output.shape)}")
    chosen: Tensor = module.get_submodule(child)(torch.stack([inputs[0], output], dim=1))
    return chosen



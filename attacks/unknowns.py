"""What an attack optimises, and how: the initial value, the descent direction and the set it stays in.

A *guess* holds everything that determines a client's update, by name, for N problems at once:

    images          (N, B, C, H, W)
    labels          (N, B) class indices, or (N, B, K) probabilities
    noise.<path>    (N, B, ...) for each stochastic layer

Some of it the attacker knows; each unknown stands for one or more of the other names. What is optimised need not
be that value itself: it may be anything that the value is a function of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.base import NotApplicable
from defenses.stochastic import StochasticLayer, set_stochastic, stochastic_layers

Guess = Mapping[str, Tensor]
Draw = Callable[[str], torch.Generator]
"""A generator of its own for each name that an unknown draws."""

NOISE = "noise."


def noise_of(guess: Guess) -> dict[str, Tensor]:
    """The noise in a guess, by module path."""
    return {name.removeprefix(NOISE): value for name, value in guess.items() if name.startswith(NOISE)}


@dataclass(frozen=True)
class Setting:
    """What all problems of one optimisation share.

    Args:
        model: the attacker's copy, on the device and in the dtype to work in.
        images: how many images a problem has, B.
        classes: how many the model tells apart, K.
        input_shape: (C, H, W).
        mean, std: per channel.
        noise_inputs: the input shape (B, ...) of each stochastic layer that draws.
        matched: the parameters that the observed updates hold, in the model's order.
    """

    model: nn.Module
    images: int
    classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    noise_inputs: Mapping[str, torch.Size]
    matched: tuple[str, ...]


class Unknown(ABC):
    """One unknown of a composition, made for one setting."""

    @abstractmethod
    def owns(self, name: str) -> bool:
        """Whether this unknown stands for that name of a guess."""

    @abstractmethod
    def start(self, draw: Draw) -> dict[str, Tensor]:
        """What is optimised of one problem at first, without the leading N, on the CPU in float32."""

    def value(self, name: str, free: Tensor) -> Tensor:
        """What stands in the guess, differentiable in what is optimised, both (N, ...): the same unless overridden."""
        return free

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """What the optimiser is given in place of a gradient (N, ...)."""

    @abstractmethod
    def project(self, name: str, value: Tensor) -> Tensor:
        """The nearest admissible point to what is optimised (N, ...) under the given name."""


class Images(Unknown):
    """The batch, from N(0, 1).

    Args:
        signed: it moves by the gradient's sign, else by the gradient.
        bounded: it stays inside the range that pixels in [0, 1] have once normalised.
    """

    def __init__(self, setting: Setting, *, signed: bool = True, bounded: bool = True) -> None:
        self.signed, self.bounded = signed, bounded
        self.shape = (setting.images, *setting.input_shape)
        like = next(setting.model.parameters())
        mean, std = (torch.tensor(value).view(-1, 1, 1).to(like) for value in (setting.mean, setting.std))
        self.low, self.high = (0 - mean) / std, (1 - mean) / std

    def owns(self, name: str) -> bool:
        return name == "images"

    def start(self, draw: Draw) -> dict[str, Tensor]:
        return {"images": torch.randn(self.shape, generator=draw("images"))}

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.signed else gradient

    def project(self, name: str, value: Tensor) -> Tensor:
        return value.clamp(self.low, self.high) if self.bounded else value


class SoftLabels(Unknown):
    """The labels as probabilities (N, B, K): the softmax of logits that may take any value, from N(0, 1)."""

    def __init__(self, setting: Setting) -> None:
        self.shape = (setting.images, setting.classes)

    def owns(self, name: str) -> bool:
        return name == "labels"

    def start(self, draw: Draw) -> dict[str, Tensor]:
        return {"labels": torch.randn(self.shape, generator=draw("labels"))}

    def value(self, name: str, free: Tensor) -> Tensor:
        return free.softmax(dim=-1)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient

    def project(self, name: str, value: Tensor) -> Tensor:
        return value


class Noise(Unknown):
    """What the stochastic layers drew: from their own distribution, by the raw gradient, in their relaxed set."""

    def __init__(self, setting: Setting) -> None:
        self.inputs = setting.noise_inputs
        self.layers: Mapping[str, StochasticLayer] = stochastic_layers(setting.model)

    def owns(self, name: str) -> bool:
        return name.startswith(NOISE)

    def start(self, draw: Draw) -> dict[str, Tensor]:
        def drawn(path: str, shape: torch.Size) -> Tensor:
            layer = self.layers[path]
            return layer.relax(layer.sample(torch.zeros(shape), draw(NOISE + path)))

        return {NOISE + path: drawn(path, shape) for path, shape in self.inputs.items()}

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient

    def project(self, name: str, value: Tensor) -> Tensor:
        return self.layers[name.removeprefix(NOISE)].project(value)


def noise_inputs(model: nn.Module, images: int, input_shape: tuple[int, int, int]) -> dict[str, torch.Size]:
    """Which stochastic layers draw when a batch of `images` passes in train mode, and the input shape (B, ...) of each.

    Raises:
        NotApplicable: a stochastic layer that draws more than once; one noise cannot stand for several draws.
    """
    shapes: dict[str, list[torch.Size]] = {path: [] for path in stochastic_layers(model)}
    drew: set[str] = set()
    handles = []

    def watch(path: str, layer: StochasticLayer) -> None:
        layer._observer = lambda noise: drew.add(path)
        handles.append(layer.register_forward_pre_hook(lambda layer, inputs: shapes[path].append(inputs[0].shape)))

    layers = stochastic_layers(model)
    for path, layer in layers.items():
        watch(path, layer)
    set_stochastic(model, True)
    like = next(model.parameters())
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        own = {name: value.clone() for name, value in model.named_buffers()}  # a forward pass may count in them
        functional_call(model, own, (torch.zeros(images, *input_shape, dtype=like.dtype, device=like.device),))
    set_stochastic(model, False)
    for layer in layers.values():
        layer._observer = None
    for handle in handles:
        handle.remove()
    for path in drew:
        if len(shapes[path]) > 1:
            raise NotApplicable(f"the stochastic layer {path} is called {len(shapes[path])} times in one forward pass")
    return {path: shapes[path][0] for path in layers if path in drew}

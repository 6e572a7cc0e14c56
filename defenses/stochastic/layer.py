"""The stochastic layer: `y = inject(x, noise)` with `noise = sample(x)` unless somebody has put a noise in its place.

The noise slot is a non-persistent buffer, None at rest. So
`torch.func.functional_call(model, {**parameters, "drop.noise": mask}, x)` substitutes it, `vmap` batches it, autograd
differentiates it, and the state dict that clients exchange never holds it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from defenses.client.site import EXAMPLE, Site

Draw = Callable[[str, "StochasticLayer", Tensor], Tensor | None]
"""From a layer's module path, the layer and its input to a noise; None: the input passes unchanged."""


class StochasticLayer(nn.Module, Site):
    """A layer with explicit randomness: a random site of its model, named by its module path.

    In training mode it samples; in evaluation mode it passes its input through; with a noise in its slot it injects
    that noise in either mode. An attacker's copy of a model trains with its stochastic layers in evaluation mode
    (`set_stochastic(model, False)`), so that the model is deterministic except for what is injected.

    Class attributes:
        axes: what has a draw of its own, by default each example of each step; see `defenses.client.site`.
        on_weights: whether the noise acts on the layer's weights, so that each draw is another weight.
    """

    axes = EXAMPLE
    on_weights: bool = False
    resting: bool = False
    """Whether it does nothing whatever its mode, as a layer of a defense that an attacker does not know of."""
    added: bool = False
    """Whether a defense put it into the model: the model's own dropout rate says nothing of it."""
    noise: Tensor | None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)  # of the layer of torch that a subclass may be besides
        self.register_buffer("noise", None, persistent=False)
        self._draw: Callable[[Tensor], Tensor | None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        noise = self.noise
        if noise is None:
            if not self.training or self.resting or self.idle:
                return self.unperturbed(x)
            noise = self.sample(x) if self._draw is None else self._draw(x)
        return self.unperturbed(x) if noise is None else self.inject(x, noise)

    @abstractmethod
    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a noise for the input x (B, ...)."""

    @abstractmethod
    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        """The layer's output (B, ...) for a given noise. Differentiable in both."""

    def unperturbed(self, x: Tensor) -> Tensor:
        """The layer's output (B, ...) without any noise, as in evaluation mode."""
        return x

    def rest(self, x: Tensor) -> Tensor | None:
        return None

    def begin(self, round: int) -> None:
        """What the number of the federation's round changes about it; until it is told, it is in round 1."""

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """What a client remembers of its rounds before changes about it; it is told so at the start of each round."""

    @property
    def idle(self) -> bool:
        """Whether its rate is 0, so that there is nothing to draw, record or attack."""
        return getattr(self, "p", None) == 0


def stochastic_layers(model: nn.Module) -> dict[str, StochasticLayer]:
    """The stochastic layers of a model that are not at rest, by their module path, in the model's order."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, StochasticLayer) and not module.resting
    }


def set_stochastic(model: nn.Module, active: bool) -> nn.Module:
    """Let the stochastic layers sample, or make them pass through, whatever mode the rest of the model is in."""
    for layer in stochastic_layers(model).values():
        layer.train(active)
    return model


def begin(model: nn.Module, round: int) -> nn.Module:
    """Tell the stochastic layers which round of the federation it is, in place."""
    for layer in stochastic_layers(model).values():
        layer.begin(round)
    return model


@contextmanager
def drawing(model: nn.Module, draw: Draw) -> Iterator[None]:
    """While open, the stochastic layers in training mode ask `draw` for their noise."""
    layers = stochastic_layers(model)
    before = {path: layer._draw for path, layer in layers.items()}
    for path, layer in layers.items():
        layer._draw = partial(draw, path, layer)
    try:
        yield
    finally:
        for path, layer in layers.items():
            layer._draw = before[path]


def at_rest(path: str, layer: StochasticLayer, x: Tensor) -> None:
    """Draws nothing: the model is deterministic."""


@contextmanager
def record(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what a model draws: `{module path: [noise of the first call, of the second, ...]}`.

    Recording observes the draws; it never freezes them. Layers that draw nothing have an empty list.
    """
    drawn: dict[str, list[Tensor]] = {path: [] for path in stochastic_layers(model)}

    def draw(path: str, layer: StochasticLayer, x: Tensor) -> Tensor:
        noise = layer.sample(x)
        drawn[path].append(noise.detach().clone())
        return noise

    with drawing(model, draw):
        yield drawn

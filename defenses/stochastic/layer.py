"""The stochastic layer: `y = inject(x, noise)` with `noise = sample(x)` unless somebody has put a noise in its place.

The noise slot is a non-persistent buffer, None at rest. So
`torch.func.functional_call(model, {**parameters, "drop.noise": mask}, x)` substitutes it, `vmap` batches it, autograd
differentiates it, and the state dict that clients exchange never holds it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class StochasticLayer(nn.Module, ABC):
    """A layer with explicit randomness.

    In training mode it samples; in evaluation mode it passes its input through; with a noise in its slot it injects
    that noise in either mode. An attacker's copy of a model trains with its stochastic layers in evaluation mode
    (`set_stochastic(model, False)`), so that the model is deterministic except for what is injected.
    """

    noise: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("noise", None, persistent=False)
        self._observer: Callable[[Tensor], None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.noise is not None:
            return self.inject(x, self.noise)
        if not self.training:
            return x
        noise = self.sample(x)
        if self._observer is not None:
            self._observer(noise)
        return self.inject(x, noise)

    @abstractmethod
    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a noise for the input x (B, ...)."""

    @abstractmethod
    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        """The layer's output (B, ...) for a given noise. Differentiable in both."""

    @abstractmethod
    def relax(self, noise: Tensor) -> Tensor:
        """A drawn noise as a point of the continuous set that an attacker optimises over."""

    @abstractmethod
    def project(self, noise: Tensor) -> Tensor:
        """The nearest point of that set: what an attacker applies after every step."""

    @abstractmethod
    def penalty(self, noise: Tensor) -> Tensor:
        """How unlikely this noise (B, ...) of one problem is, as one non-negative number."""


def stochastic_layers(model: nn.Module) -> dict[str, StochasticLayer]:
    """The stochastic layers of a model by their module path, in the model's order."""
    return {path: module for path, module in model.named_modules() if isinstance(module, StochasticLayer)}


def set_stochastic(model: nn.Module, active: bool) -> nn.Module:
    """Let the stochastic layers sample, or make them pass through, whatever mode the rest of the model is in."""
    for layer in stochastic_layers(model).values():
        layer.train(active)
    return model


@contextmanager
def record(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what a model draws: `{module path: [noise of the first call, of the second, ...]}`.

    Recording observes the draws; it never freezes them. Layers that draw nothing have an empty list.
    """
    layers = stochastic_layers(model)
    drawn: dict[str, list[Tensor]] = {path: [] for path in layers}

    def observer(path: str) -> Callable[[Tensor], None]:
        return lambda noise: drawn[path].append(noise.detach().clone())

    for path, layer in layers.items():
        layer._observer = observer(path)
    try:
        yield drawn
    finally:
        for layer in layers.values():
            layer._observer = None

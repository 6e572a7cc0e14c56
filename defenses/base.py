"""The contract of a defense: a few hooks into a client's round, each optional, and the registry.

A client's round runs the hooks in this order:

    model_overrides        before anything is built: keys of the scenario's `model` block that it replaces
    on_model               once, when the client has built its model
    on_batch               per local step: the images and labels that are trained on
    gradient               per local step: replaces the plain gradient (DP-SGD does); at most one of a composition may
    on_update              once: what leaves the client (the gradient, or the weight delta)

Adding a defense is one file with one class:

    @register("round_to")
    class RoundTo(Defense):
        '''Round every entry of the update to a multiple of `step`.'''

        def __init__(self, *, step: float = 1e-3) -> None:
            self.step = step

        def on_update(self, update, *, generator):
            return {name: (value / self.step).round() * self.step for name, value in update.items()}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from defenses.registry import Registry

Tensors = dict[str, Tensor]
GradientFunction = Callable[[nn.Module, Tensor, Tensor], Tensors]

_registry: Registry[Defense]


@dataclass(frozen=True)
class Accounting:
    """A differential-privacy guarantee: (epsilon, delta), and the assumption it was computed under."""

    epsilon: float
    delta: float
    note: str = ""


class Defense:
    """Base of all defenses: every hook does nothing until a subclass overrides it.

    Constructor parameters are keyword-only; they become the keys that a scenario may set. Bad values raise ValueError.
    """

    name: ClassVar[str] = ""

    def model_overrides(self) -> dict[str, Any]:
        """Keys of the scenario's model block that this defense replaces, e.g. `{"dropout": 0.5}`."""
        return {}

    def on_model(self, model: nn.Module) -> nn.Module:
        """The client's model, changed or replaced. Raises ValueError naming a module that it cannot handle."""
        return model

    def on_batch(self, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in normalised units and labels (B,), as they will be trained on."""
        return images, labels

    def gradient(self, model: nn.Module, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensors:
        """The gradient of one local step by parameter name, in place of the plain one."""
        raise NotImplementedError

    def on_update(self, update: Tensors, *, generator: torch.Generator) -> Tensors:
        """What leaves the client: tensors by parameter name, same names and shapes."""
        return update

    def accounting(self, *, steps: int, batch_size: int, examples: int) -> Accounting | None:
        """The privacy that `steps` local steps of `batch_size` out of `examples` spend, if it accounts for any."""
        return None

    @property
    def replaces_gradient(self) -> bool:
        return type(self).gradient is not Defense.gradient

    @property
    def declarative(self) -> bool:
        """True where the defense is wholly expressed by its `model_overrides` (or is `none`)."""
        hooks = ("on_model", "on_batch", "gradient", "on_update")
        return all(getattr(type(self), hook) is getattr(Defense, hook) for hook in hooks)


class Composition(Defense):
    """Several defenses, one after the other. The order is the order of the list."""

    def __init__(self, parts: Sequence[Defense]) -> None:
        self.parts = list(parts)
        replacing = [part.name for part in self.parts if part.replaces_gradient]
        if len(replacing) > 1:
            listed = " and ".join(replacing)
            raise ValueError(f"only one defense of a composition may replace the gradient, not {listed}")

    def model_overrides(self) -> dict[str, Any]:
        return {key: value for part in self.parts for key, value in part.model_overrides().items()}

    def on_model(self, model: nn.Module) -> nn.Module:
        for part in self.parts:
            model = part.on_model(model)
        return model

    def on_batch(self, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        for part in self.parts:
            images, labels = part.on_batch(images, labels, generator=generator)
        return images, labels

    def gradient(self, model: nn.Module, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensors:
        part = next(part for part in self.parts if part.replaces_gradient)
        return part.gradient(model, images, labels, generator=generator)

    def on_update(self, update: Tensors, *, generator: torch.Generator) -> Tensors:
        for part in self.parts:
            update = part.on_update(update, generator=generator)
        return update

    def accounting(self, *, steps: int, batch_size: int, examples: int) -> Accounting | None:
        found = [part.accounting(steps=steps, batch_size=batch_size, examples=examples) for part in self.parts]
        return next((accounting for accounting in found if accounting is not None), None)

    @property
    def replaces_gradient(self) -> bool:
        return any(part.replaces_gradient for part in self.parts)

    @property
    def declarative(self) -> bool:
        return all(part.declarative for part in self.parts)


_registry = Registry("defense", "defenses")
register = _registry.register
get = _registry.get
names = _registry.names
create = _registry.create


def compose(specs: Sequence[dict[str, Any]]) -> Defense:
    """Build the composition that a list of `{"name": ..., **params}` describes; an empty list is no defense."""
    return Composition([create(spec["name"], **{k: v for k, v in spec.items() if k != "name"}) for spec in specs])

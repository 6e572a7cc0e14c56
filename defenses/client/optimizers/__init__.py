"""The optimizers of a client's local training, as pure functions of tensors: an attacker differentiates through them.

Each is a frozen value with two functions, as in optax: `init` gives the state before the first step, `update` the
change of the parameters and the next state. Adding one is one file with one class:

    @register("sign_sgd")
    @dataclass(frozen=True, kw_only=True)
    class SignSGD(Optimizer):
        def update(self, gradient, state, parameters, learning_rate):
            return {name: -learning_rate * g.sign() for name, g in gradient.items()}, state

Its fields are the keys that a scenario may set under `federation.local.optimizer`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from defenses.registry import Registry

Tensors = Mapping[str, Tensor]
State = Any
"""What an optimizer carries from step to step: its own, and nobody else's, to read."""


class Estimate(NamedTuple):
    """What is known of a tensor: each entry, and its standard deviation; infinite where nothing but a sign is known."""

    value: Tensor
    error: Tensor


class Optimizer(ABC):
    """One local optimizer. Bad values raise ValueError."""

    name: ClassVar[str] = ""

    def init(self, parameters: Tensors) -> State:
        """The state before the first step of a round: nothing, unless overridden."""
        return None

    @abstractmethod
    def update(
        self, gradient: Tensors, state: State, parameters: Tensors, learning_rate: float
    ) -> tuple[dict[str, Tensor], State]:
        """The change of the parameters, and the state after it."""

    def surrogate(
        self, gradient: Tensors, state: State, parameters: Tensors, learning_rate: float
    ) -> tuple[dict[str, Tensor], State]:
        """A picture of `update` that an attacker can differentiate, for an only step: the function itself."""
        return self.update(gradient, state, parameters, learning_rate)

    def first_gradient(self, change: Tensors, parameters: Tensors, learning_rate: float) -> dict[str, Tensor] | None:
        """The gradient that the change of a first step reveals, exactly; None where it does not reveal it."""
        return None

    def first_estimate(
        self, change: Tensors, rounding: Tensors, parameters: Tensors, learning_rate: float
    ) -> dict[str, Estimate] | None:
        """The same of a change whose entries are known with a standard deviation each, `rounding`.

        By default it is taken to be linear in the change, where `first_gradient` reveals it.
        """
        found = self.first_gradient(change, parameters, learning_rate)
        if found is None:
            return None
        moved = self.first_gradient({n: c + rounding[n] for n, c in change.items()}, parameters, learning_rate)
        assert moved is not None
        return {name: Estimate(value, (moved[name] - value).abs()) for name, value in found.items()}

    def spec(self) -> dict[str, Any]:
        """`{"name": ..., **parameters}`."""
        return {"name": self.name, **asdict(self)}  # type: ignore[call-overload]

    def _check(self, **bounds: tuple[float, float]) -> None:
        """Raise ValueError unless each field is in its half-open interval."""
        for key, (low, high) in bounds.items():
            value = getattr(self, key)
            if isinstance(value, bool) or not (isinstance(value, int | float) and low <= value < high):
                wanted = f"a number in [{low:g}, {high:g})" if high < math.inf else f"a number of at least {low:g}"
                raise ValueError(f"{self.name}: {key} = {value} is not {wanted}")


_registry: Registry[Optimizer] = Registry("optimizer", "defenses.client.optimizers")
register = _registry.register
get = _registry.get
names = _registry.names
create = _registry.create

"""Stochastic gradient descent, as `torch.optim.SGD`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from defenses.client.optimizers import Optimizer, State, Tensors, register


@register("sgd")
@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """`v <- momentum v + g + weight_decay w`, `w <- w - learning_rate v` (Nesterov: `g + momentum v` in place of v).

    A first step reveals the gradient, whatever the momentum.

    Args:
        nesterov: look ahead along the momentum, which there must then be.
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._check(momentum=(0, 1), weight_decay=(0, math.inf))
        if self.nesterov and not self.momentum:
            raise ValueError("sgd: nesterov = True is not possible without a momentum")

    def init(self, parameters: Tensors) -> State:
        return {name: torch.zeros_like(value) for name, value in parameters.items()} if self.momentum else None

    def update(
        self, gradient: Tensors, state: State, parameters: Tensors, learning_rate: float
    ) -> tuple[dict[str, Tensor], State]:
        decayed = {name: g + self.weight_decay * parameters[name] for name, g in gradient.items()}
        if not self.momentum:
            return {name: -learning_rate * g for name, g in decayed.items()}, None
        velocity = {name: self.momentum * state[name] + g for name, g in decayed.items()}
        moved = {n: decayed[n] + self.momentum * v for n, v in velocity.items()} if self.nesterov else velocity
        return {name: -learning_rate * v for name, v in moved.items()}, velocity

    def first_gradient(self, change: Tensors, parameters: Tensors, learning_rate: float) -> dict[str, Tensor]:
        rate = learning_rate * (1 + self.momentum if self.nesterov else 1)
        return {name: -value / rate - self.weight_decay * parameters[name].to(value) for name, value in change.items()}

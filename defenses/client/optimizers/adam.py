"""Adam (Kingma and Ba, ICLR 2015), as `torch.optim.Adam`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from defenses.client.guarded import root
from defenses.client.optimizers import Optimizer, Tensors, register


class Moments(NamedTuple):
    """Running means of the gradients and of their squares."""

    steps: int
    mean: Tensors
    square: Tensors


@register("adam")
@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Steps of the size of the learning rate, along the mean of the gradients over their root mean square.

    The first step is almost the gradient's sign, and does not reveal the gradient. Weight decay is added to the
    gradient.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._check(beta1=(0, 1), beta2=(0, 1), weight_decay=(0, math.inf))
        if not 0 < self.epsilon < math.inf:  # at 0 a unit that was dropped would move by 0 / 0
            raise ValueError(f"{self.name}: epsilon = {self.epsilon} is not a positive number")

    def init(self, parameters: Tensors) -> Moments:
        zeros = {name: torch.zeros_like(value) for name, value in parameters.items()}
        return Moments(0, zeros, zeros)

    def update(
        self, gradient: Tensors, state: Moments, parameters: Tensors, learning_rate: float
    ) -> tuple[dict[str, Tensor], Moments]:
        return self._moved(gradient, state, parameters, learning_rate, soft=False)

    def surrogate(
        self, gradient: Tensors, state: Moments, parameters: Tensors, learning_rate: float
    ) -> tuple[dict[str, Tensor], Moments]:
        """As if epsilon were as large as the entries are on average: a first step is nearly their sign, which has no
        derivative."""
        return self._moved(gradient, state, parameters, learning_rate, soft=True)

    def _moved(
        self, gradient: Tensors, state: Moments, parameters: Tensors, learning_rate: float, *, soft: bool
    ) -> tuple[dict[str, Tensor], Moments]:
        if self.weight_decay:
            gradient = {name: g + self.weight_decay * parameters[name] for name, g in gradient.items()}
        steps = state.steps + 1
        mean = {name: self.beta1 * state.mean[name] + (1 - self.beta1) * g for name, g in gradient.items()}
        square = {name: self.beta2 * state.square[name] + (1 - self.beta2) * g * g for name, g in gradient.items()}
        size, scale = learning_rate / (1 - self.beta1**steps), math.sqrt(1 - self.beta2**steps)
        sizes = {name: root(value) / scale for name, value in square.items()}
        change = {
            name: -size * m / (sizes[name] + (sizes[name].mean() if soft else 0.0) + self.epsilon)
            for name, m in mean.items()
        }
        return change, Moments(steps, mean, square)

"""Adam (Kingma and Ba, ICLR 2015), as `torch.optim.Adam`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from defenses.client.guarded import root
from defenses.client.optimizers import Estimate, Optimizer, Tensors, register

CENSORED = 3.0  # a size that is within so many standard deviations of 1 may be 1


class Moments(NamedTuple):
    """Running means of the gradients and of their squares."""

    steps: Tensor
    """() float64: of every step alike, so that a program of one serves all."""
    mean: Tensors
    square: Tensors


@register("adam")
@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Steps of the size of the learning rate, along the mean of the gradients over their root mean square.

    The first step is `g / (|g| + epsilon)`, almost the gradient's sign. How far it is from 1 tells the gradient, unless
    it was rounded away (`first_estimate`). Weight decay is added to the gradient.

    Args:
        beta1: how much of the running mean of the gradients is kept in a step, in [0, 1).
        beta2: how much of the running mean of their squares is kept in a step, in [0, 1).
        weight_decay: that many times the parameter is added to its gradient.
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
        like = next(iter(zeros.values()))
        return Moments(like.new_zeros((), dtype=torch.float64), zeros, zeros)

    def update(
        self, gradient: Tensors, state: Moments, parameters: Tensors, learning_rate: float
    ) -> tuple[dict[str, Tensor], Moments]:
        return self._moved(gradient, state, parameters, learning_rate, soft=False)

    def first_estimate(
        self, change: Tensors, rounding: Tensors, parameters: Tensors, learning_rate: float
    ) -> dict[str, Estimate]:
        """`r = g / (|g| + epsilon)` is solved for `g = epsilon r / (1 - |r|)`. The error of r is multiplied by
        `epsilon / (1 - |r|)^2`: the smaller an entry, the better it is known."""
        found = {}
        for name, value in change.items():
            step, spread = -value / learning_rate, rounding[name] / learning_rate
            gap = 1 - step.abs()
            known = gap > CENSORED * spread
            gap = torch.where(known, gap, (CENSORED * spread).clamp_min(torch.finfo(gap.dtype).tiny))
            gradient = self.epsilon * step / gap - self.weight_decay * parameters[name].to(step)
            # the decay was rounded when it was added: as the weights are, of which it is a share
            error = torch.hypot(self.epsilon * spread / gap.square(), self.weight_decay * rounding[name])
            found[name] = Estimate(gradient, torch.where(known, error, math.inf))
        return found

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
        size, scale = learning_rate / (1 - self.beta1**steps), (1 - self.beta2**steps).sqrt()
        sizes = {name: root(value) / scale for name, value in square.items()}
        change = {
            name: -size * m / (sizes[name] + (sizes[name].mean() if soft else 0.0) + self.epsilon)
            for name, m in mean.items()
        }
        return change, Moments(steps, mean, square)

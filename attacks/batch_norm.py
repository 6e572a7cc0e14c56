"""The batch-norm prior: what enters each batch-norm layer is distributed as its statistics say (Yin et al.,
DeepInversion, CVPR 2020, and GradInversion, CVPR 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attacks.base import NotApplicable
from attacks.facts import Facts
from attacks.observation import Observation, Tensors
from attacks.priors import Prior
from attacks.statistics import MEAN, VARIANCE, Statistics, of_batches, running
from attacks.unknowns import Guess


class BatchNormStatistics(Prior):
    """`sum_l |mean_l(x) - mean_l*|_2 + |var_l(x) - var_l*|_2` over the batch-norm layers, of what enters each in all
    examples of a step and at all positions.

    Args:
        weight: of the sum.
        model: the attacker's copy.
        steps: how many local steps a client took.
        of: `running`, the statistics that were sent, which are those of many batches; or `batch`, those of the client's
            own batches, as the buffers that it returned reveal them. Of several local steps these are a weighted mean,
            and so is what it is compared with; each step is as the weights of that step have it.

    Raises:
        NotApplicable: the model has no batch norm.
    """

    def __init__(self, weight: float, model: nn.Module, *, steps: int, of: Literal["running", "batch"]) -> None:
        self.weight, self.steps, self.of = weight, steps, of
        self.layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
        self.asks = tuple(self.layers)
        if not self.layers:
            raise NotApplicable("the model has no batch norm, hence no statistics of what enters it")

    def take(self, observation: Observation) -> dict[str, Tensor]:
        state = observation.state
        kept = {path: layer for path, layer in self.layers.items() if f"{path}.{MEAN}" in state}
        if not kept:
            raise NotApplicable("the model's batch norm keeps no running statistics")
        batches = {path: of_batches(path, layer, state, observation.buffers) for path, layer in kept.items()}
        if self.of == "running" or not any(batches.values()):
            if self.of == "batch":
                raise NotApplicable("the buffers that came back do not say what the batch's statistics were")
            if all(_new(path, state) for path in kept):
                raise NotApplicable("the running statistics are those of a new model, which has seen no batch")
            batches = dict.fromkeys(kept)
        found: dict[str, Statistics] = {}
        for path, own in batches.items():
            if own is not None and len(own.shares) != self.steps:
                seen = f"{len(own.shares)} batches in {self.steps} local steps"
                raise NotApplicable(f"the batch norm {path} saw {seen}")
            found[path] = own or running(path, state, steps=self.steps)
        return {
            f"{path}:{what}": value
            for path, own in found.items()
            for what, value in (("mean", own.mean), ("variance", own.variance), ("shares", own.shares))
        }

    def __call__(self, guess: Guess, facts: Facts) -> Tensor:
        images = guess["images"]
        penalty = images.new_zeros(len(images))
        for path, steps in facts.entered.items():
            if f"{path}:mean" not in facts.taken:
                continue
            mean, variance, shares = (facts.taken[f"{path}:{what}"] for what in ("mean", "variance", "shares"))
            found = [_moments(entered) for entered in steps]
            for target, values in ((mean, [one for one, _ in found]), (variance, [one for _, one in found])):
                ours = (shares[:, :, None] * torch.stack(values, dim=1)).sum(1)
                penalty = penalty + torch.linalg.vector_norm(ours - target, dim=1)
        return self.weight * penalty


def _moments(entered: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the unbiased variance (N, C) of (N, B, C, ...); the biased one, zero, of a single value."""
    over = (1, *range(3, entered.dim()))
    count = entered[0, :, 0].numel()
    return entered.mean(over), entered.var(over, correction=1 if count > 1 else 0)


def _new(path: str, state: Tensors) -> bool:
    """Whether a layer's running statistics are as they are made."""
    return not state[f"{path}.{MEAN}"].any() and bool((state[f"{path}.{VARIANCE}"] == 1).all())

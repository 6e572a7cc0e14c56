"""Prune and perturb the update where its Fisher information is largest, less and less often."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.site import Gaussian, Site
from defenses.client.spread import Spread


@register("outpost")
class Outpost(Defense):
    """Act in the t-th round of a client with a chance of `1 / (1 + decay t)`: set the smallest entries of each
    parameter to zero, and add N(0, (noise v)^2) where the Fisher information is largest, v being the variance of the
    parameter's weights, at most 1.

    Wang, Hugon, Li, *More than Enough is Too Much: Adaptive Defenses against Gradient Leakage in Production Federated
    Learning*, INFOCOM 2023, after its abstract and its published code, whose values these are. The Fisher information
    is the mean square of the update over a parameter's first dimension. Theirs acts on each local step's gradient, this
    on what leaves the client. An attacker who knows the defense compares the largest entries alone, which are more than
    noise.

    Args:
        decay: how fast it becomes rarer, at least 0.
        share: of the Fisher information's entries those that are perturbed, in (0, 1].
        prune: the share of each parameter's entries that is set to zero, in [0, 1).
        noise: over the weights' variance, at least 0.
    """

    def __init__(
        self, *, decay: float = 0.125, share: float = 0.4, prune: float = 0.8, noise: float = 0.8
    ) -> None:
        if not 0 <= decay < math.inf:
            raise ValueError(f"outpost: decay = {decay} is not a number of at least 0")
        if not 0 < share <= 1:
            raise ValueError(f"outpost: share = {share} is not in (0, 1]")
        if not 0 <= prune < 1:
            raise ValueError(f"outpost: prune = {prune} is not in [0, 1)")
        if not 0 <= noise < math.inf:
            raise ValueError(f"outpost: noise = {noise} is not a number of at least 0")
        self.decay, self.share, self.prune, self.noise = decay, share, prune, noise

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        rounds = turn.remembered("rounds", torch.zeros(())) + 1
        turn.remember("rounds", rounds)
        first = next(iter(update.values()))
        acts = turn.draw("acts", _Acts(1 / (1 + self.decay * float(rounds))), first)
        fisher = {name: value.square().mean(0) if value.dim() else value.square() for name, value in update.items()}
        together = torch.cat([value.flatten() for value in fisher.values()])
        perturbed = _largest(together, math.ceil(self.share * together.numel()))
        places = dict(zip(fisher, perturbed.split([value.numel() for value in fisher.values()])))
        normal, weights, sent = Gaussian(), turn.client.weights, {}
        for name, value in update.items():
            kept = self._left(value)
            deviation = self.noise * weights[name].var(correction=0).clamp(max=1)
            noise = deviation * places[name].view_as(fisher[name]) * turn.draw(name, normal, value)
            sent[name] = (1 - acts) * value + acts * (kept * value + noise)
        return sent

    def selection(self, observed: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Of each parameter as many of the largest entries as were not pruned: what is smaller is zero, or noise.

        None where there are fewer zeros than half of what it makes at least: it did not act.
        """
        entries = sum(value.numel() for value in observed.values())
        zeros = sum(int((value == 0).sum()) for value in observed.values())
        if zeros < self.prune * (1 - self.share) * entries / 2:
            return None
        return {name: self._left(value).bool() & (value != 0) for name, value in observed.items()}

    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        """A column of the update without a zero was perturbed; how much shows in what was pruned there.

        Elsewhere nothing is on what is left. Perturbed columns are larger, so that in a gradient of rank one, as of a
        single example, what is left of a unit elsewhere is left there, too.
        """
        left = self.selection(observed)
        if left is None:
            return None
        return Spread({name: self._noise(value, left[name]) for name, value in observed.items()})

    def _noise(self, value: Tensor, left: Tensor) -> Tensor:
        if value.dim() == 0:
            return torch.where(left, 0.0, torch.inf).double()
        perturbed = (value != 0).all(0).expand_as(value)
        elsewhere = (left & ~perturbed).flatten(1).any(1) if value.dim() > 1 else torch.zeros_like(left)
        if bool(elsewhere.any()):
            left = torch.where(perturbed, elsewhere.view(-1, *[1] * (value.dim() - 1)), left)
        alone = value.abs()[perturbed & ~left]
        around = alone if alone.numel() else value.abs()[perturbed]
        deviation = float(around.median()) / _MEDIAN if around.numel() else 0.0
        return torch.where(left, deviation * perturbed.double(), torch.inf)

    def _left(self, value: Tensor) -> Tensor:
        """1 for the entries that pruning leaves."""
        count = value.numel() - math.floor(self.prune * value.numel())
        return _largest(value.abs().flatten(), count).view_as(value)


_MEDIAN = 0.6745
"""The median size of a standard normal number."""


def _largest(values: Tensor, count: int) -> Tensor:
    """1 for the largest of the entries (n,), 0 for the others."""
    chosen = values.topk(count, sorted=False).indices
    return torch.zeros_like(values).scatter(0, chosen, 1)


class _Acts(Site):
    """Whether it acts in this round, 1 or 0: the zeros show it."""

    structural = False

    def __init__(self, chance: float) -> None:
        self.chance = chance

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return x.new_empty(()).bernoulli_(self.chance, generator=generator)

    def rest(self, x: Tensor) -> Tensor:
        return x.new_ones(())

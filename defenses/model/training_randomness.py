"""Dropout, and noise on the gradients of what was dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.site import Gaussian
from defenses.client.spread import Spread
from defenses.stochastic.dropout import BatchDropout, Dropout, FeatureDropout
from defenses.stochastic.places import behind, dropouts


@register("training_randomness")
class TrainingRandomness(Defense):
    """Drop units wherever the model has a dropout layer, behind what that draws, and add N(0, std^2) to the entries of
    the update that are zero, so that it does not show which units were dropped.

    *Federated Learning Privacy Protection via Training Randomness*, ICCK Transactions on Sensing, Communication, and
    Control 2(4), 2025, after its abstract; the rate and the noise could not be read and are ours. Whether its masks are
    of a mini-batch or of each example it does not say: where examples have masks of their own, a unit's gradients are
    zero only if all have dropped it. The masks are structural, and an attacker may look for them; the noise is not.

    Args:
        p: the rate at which units are dropped, in [0, 1).
        std: standard deviation of the noise in units of the update, at least 0.
        per: what has a mask of its own, each `example` or each mini-`batch`.
    """

    keeps_direction = True

    def __init__(
        self, *, p: float = 0.5, std: float = 1e-3, per: Literal["example", "batch"] = "example"
    ) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"training_randomness: p = {p} is not in [0, 1)")
        if not 0 <= std < math.inf:
            raise ValueError(f"training_randomness: std = {std} is not a number of at least 0")
        if per not in ("example", "batch"):
            raise ValueError(f"training_randomness: per = {per} is not one of example, batch")
        self.p, self.std, self.per = p, std, per

    def on_model(self, model: nn.Module) -> nn.Module:
        found = dropouts(model)
        if not found:
            raise ValueError(
                f"training_randomness: {type(model).__name__} has no dropout layer; put nn.Dropout(0.0) where it is to "
                "act"
            )
        for layer in found:
            whole = isinstance(layer, FeatureDropout)
            of_example = FeatureDropout(self.p) if whole else Dropout(self.p)
            own = of_example if self.per == "example" else BatchDropout(self.p, channels=whole)
            behind(layer, "training_randomness", own)
        return model

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        """What is no more than a rounding error of the largest entry counts as zero."""
        normal = Gaussian()
        largest = torch.stack([value.abs().amax() for value in update.values() if value.numel()]).amax()
        sent = {}
        for name, value in update.items():
            zero = value.abs() <= 8 * torch.finfo(value.dtype).eps * largest
            sent[name] = value + self.std * zero * turn.draw(name, normal, value)
        return sent

    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        """Noise is all there is of the units that were dropped, and nothing is on the others."""
        alone, none = (torch.tensor(std, dtype=torch.float64) for std in (self.std, 0.0))
        return Spread(dict.fromkeys(observed, none), dict.fromkeys(observed, alone)) if self.std else None

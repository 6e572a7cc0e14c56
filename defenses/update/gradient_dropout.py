"""Replace entries of the update by noise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.site import Gaussian, Site
from defenses.client.spread import Spread


@register("gradient_dropout")
class GradientDropout(Defense):
    """Replace each entry of the update by N(0, std^2) at rate p, and divide the others by 1 - p.

    *Safeguarding Federated Learning From Data Reconstruction Attacks via Gradient Dropout* (IEEE 11367738, 2026), after
    its abstract: a random subset of all layers' gradient entries is scaled, the rest replaced by Gaussian noise. The
    paper itself could not be read: the rate, the noise and the factor, which leaves the mean of an entry as it was, are
    ours. Which entries were replaced does not show, and nobody can look for it: one unknown an entry fits any image.

    Args:
        p: the rate at which entries are replaced, in [0, 1).
        std: standard deviation of what replaces them, in units of the update, at least 0.
    """

    keeps_direction = True

    def __init__(self, *, p: float = 0.5, std: float = 1e-3) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"gradient_dropout: p = {p} is not in [0, 1)")
        if not 0 <= std < math.inf:
            raise ValueError(f"gradient_dropout: std = {std} is not a number of at least 0")
        self.p, self.std = p, std

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        mask, noise, sent = _Kept(self.p), Gaussian(), {}
        for name, value in update.items():
            kept = turn.draw(f"{name}:kept", mask, value)
            sent[name] = kept * value / (1 - self.p) + (1 - kept) * self.std * turn.draw(f"{name}:noise", noise, value)
        return sent


    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        """Nothing is on what was kept; of what was not, noise is all there is."""
        alone, none = (torch.tensor(std, dtype=torch.float64) for std in (self.std, 0.0))
        return Spread(dict.fromkeys(observed, none), dict.fromkeys(observed, alone)) if self.p else None


class _Kept(Site):
    """Which entries are kept, 1 or 0 each."""

    structural = False

    def __init__(self, p: float) -> None:
        self.p = p

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.empty_like(x).bernoulli_(1 - self.p, generator=generator)

    def rest(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 1 - self.p)

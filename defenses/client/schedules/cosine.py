"""Cosine annealing (Loshchilov and Hutter, SGDR, ICLR 2017), as `torch.optim.lr_scheduler.CosineAnnealingLR`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from defenses.client.schedules import Schedule, register


@register("cosine")
@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """From 1 in the first step along half a cosine to `least` after `steps` steps, and back again behind them."""

    steps: int
    least: float = 0.0

    def __post_init__(self) -> None:
        self._check("steps", least=1)
        self._check("least", least=0)

    def factor(self, step: int) -> float:
        return self.least + (1 - self.least) * (1 + math.cos(math.pi * step / self.steps)) / 2

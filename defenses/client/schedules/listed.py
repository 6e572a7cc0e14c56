"""The factors themselves, one a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from defenses.client.schedules import Schedule, register


@register("listed")
@dataclass(frozen=True, kw_only=True)
class Listed(Schedule):
    """A factor for each step, as they were seen; steps behind the last one have the last one's.

    Args:
        factors: what the learning rate is multiplied by in each step, at least 0.
    """

    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", tuple(self.factors))
        if not self.factors or not all(0 <= factor < math.inf for factor in self.factors):
            raise ValueError(f"listed: factors = {list(self.factors)} is not a list of numbers of at least 0")

    def factor(self, step: int) -> float:
        return self.factors[min(step, len(self.factors) - 1)]

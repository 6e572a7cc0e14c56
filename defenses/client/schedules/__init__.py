"""Learning rates that change from step to step of a client's round, as multiples of the round's own.

A schedule is a frozen value with one function. Adding one is one file with one class:

    @register("halved")
    @dataclass(frozen=True, kw_only=True)
    class Halved(Schedule):
        def factor(self, step):
            return 0.5**step

Its fields are the keys that a scenario may set under `federation.local.schedule`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

from defenses.registry import Registry


class Schedule(ABC):
    """What the learning rate is multiplied by in each step. Bad values raise ValueError."""

    name: ClassVar[str] = ""

    @abstractmethod
    def factor(self, step: int) -> float:
        """Of the step of this number, the first of a round being 0."""

    def spec(self) -> dict[str, Any]:
        """`{"name": ..., **parameters}`."""
        return {"name": self.name, **asdict(self)}  # type: ignore[call-overload]

    def _check(self, key: str, *, least: float) -> None:
        """Raise ValueError unless a field is a finite number of at least so much."""
        value = getattr(self, key)
        if isinstance(value, bool) or not (isinstance(value, int | float) and least <= value < math.inf):
            raise ValueError(f"{self.name}: {key} = {value} is not a number of at least {least:g}")


_registry: Registry[Schedule] = Registry("schedule", "defenses.client.schedules")
register = _registry.register
get = _registry.get
names = _registry.names
create = _registry.create

"""As `torch.optim.lr_scheduler.LinearLR`: warm-up, or decay."""

from __future__ import annotations

from dataclasses import dataclass

from defenses.client.schedules import Schedule, register


@register("linear")
@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """From `start` in the first step along a line to `end` after `steps` steps, and `end` from there on."""

    steps: int
    start: float = 0.1
    end: float = 1.0

    def __post_init__(self) -> None:
        self._check("steps", least=1)
        self._check("start", least=0)
        self._check("end", least=0)

    def factor(self, step: int) -> float:
        share = min(step, self.steps) / self.steps
        return self.start + (self.end - self.start) * share

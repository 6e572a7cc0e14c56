"""As `torch.optim.lr_scheduler.StepLR`."""

from __future__ import annotations

from dataclasses import dataclass

from defenses.client.schedules import Schedule, register


@register("step")
@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    """Multiplied by `gamma` after every so many steps (`every: 1` with `gamma` is exponential)."""

    every: int = 1
    gamma: float = 0.1

    def __post_init__(self) -> None:
        self._check("every", least=1)
        self._check("gamma", least=0)

    def factor(self, step: int) -> float:
        return float(self.gamma ** (step // self.every))

"""Scheduled dropout as a defense: clients drop units in some rounds of the federation and not in others."""

from __future__ import annotations

from typing import Literal

from torch import nn

from defenses.base import Defense, Deployment, register
from defenses.stochastic.places import behind, dropouts
from defenses.stochastic.scheduled import ScheduledDropout


@register("scheduled_dropout")
class ScheduledDropoutDefense(Defense):
    """Dropout in the early or in the late rounds alone, wherever the model has a dropout layer, behind what that draws
    (early and late dropout: Liu et al., ICML 2023; their iterations are rounds here).

    Args:
        p: the rate at which units are dropped, in [0, 1).
        when: `early`, in the first rounds; `late`, in those after them; `linear`, in the first rounds at a rate that
            falls from p in equal steps.
        until: the last of the first rounds, at least 1.
    """

    behind = True

    def __init__(self, *, p: float = 0.5, when: Literal["early", "late", "linear"] = "early", until: int = 1) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"scheduled_dropout: p = {p} is not in [0, 1)")
        if when not in ("early", "late", "linear"):
            raise ValueError(f"scheduled_dropout: when = {when} is not early, late or linear")
        if isinstance(until, bool) or not isinstance(until, int) or until < 1:
            raise ValueError(f"scheduled_dropout: until = {until} is not a whole number of at least 1")
        self.p, self.when, self.until = p, when, until

    def on_model(self, model: nn.Module) -> nn.Module:
        found = dropouts(model)
        if not found:
            raise ValueError(
                f"scheduled_dropout: {type(model).__name__} has no dropout layer; put nn.Dropout(0.0) where it is to "
                "act"
            )
        for layer in found:
            behind(layer, "scheduled_dropout", ScheduledDropout(self.p, self.when, self.until))
        return model

    def refuses(self, deployment: Deployment) -> str | None:
        if self.when == "late" and deployment.rounds <= self.until:
            return f"scheduled_dropout: until is {self.until}, and of {deployment.rounds} rounds none comes after it"
        return None

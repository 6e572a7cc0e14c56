"""Dropout whose rate depends on the round (early and late dropout: Liu et al., ICML 2023)."""

from __future__ import annotations

from typing import Literal

from defenses.stochastic.dropout import Dropout

Schedule = Literal["early", "late", "linear"]


class ScheduledDropout(Dropout):
    """Dropout at a rate that the number of the federation's round decides.

    Args:
        p: the rate, in [0, 1), at its highest.
        when: `early`, in the rounds up to the one given; `late`, in those after it; `linear`, early at a rate that
            falls in equal steps, to 0 after that round.
        until: that round, at least 1.
    """

    def __init__(self, p: float, when: Schedule, until: int) -> None:
        super().__init__(p)
        self.highest, self.when, self.until = p, when, until
        self.begin(1)

    def begin(self, round: int) -> None:
        early = round <= self.until
        if self.when == "linear":
            self.p = self.highest * max(0.0, 1 - (round - 1) / self.until)
        else:
            self.p = self.highest if early == (self.when == "early") else 0.0

    def extra_repr(self) -> str:
        return f"p={self.p}, when={self.when}, until={self.until}"

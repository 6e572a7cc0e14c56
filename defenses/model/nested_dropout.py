"""Nested dropout as a defense: every client draws how many units its last layer sees."""

from __future__ import annotations

from torch import nn

from defenses.base import Defense, register
from defenses.stochastic.nested import NestedDropout
from defenses.stochastic.places import before, head


@register("nested_dropout")
class NestedDropoutDefense(Defense):
    """Drop all units behind a random one of what enters the last linear layer (Rippel, Gelbart, Adams, ICML 2014).

    Args:
        p: the chance that the vector ends behind each unit, in [0, 1); about 1 / p units stay.
    """

    behind = True

    def __init__(self, *, p: float = 0.01) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"nested_dropout: p = {p} is not in [0, 1)")
        self.p = p

    def on_model(self, model: nn.Module) -> nn.Module:
        last = head(model)
        if last is None:
            raise ValueError(f"nested_dropout: {type(model).__name__} has no linear layer to drop units before")
        before(last, "nested_dropout", NestedDropout(self.p))
        return model

"""Gaussian dropout as a defense: every client multiplies its hidden units by noise that the server does not know."""

from __future__ import annotations

from torch import nn

from defenses.base import Defense, register
from defenses.stochastic.dropout import FeatureDropout
from defenses.stochastic.gaussian_dropout import GaussianDropout
from defenses.stochastic.places import behind, dropouts


@register("gaussian_dropout")
class GaussianDropoutDefense(Defense):
    """Multiply units by noise from N(1, p / (1 - p)) wherever the model has a dropout layer, behind what that draws
    (Srivastava et al., JMLR 2014); whole channels where that drops whole channels.

    Args:
        p: the rate of the dropout of equal variance, in [0, 1).
    """

    behind = True

    def __init__(self, *, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"gaussian_dropout: p = {p} is not in [0, 1)")
        self.p = p

    def on_model(self, model: nn.Module) -> nn.Module:
        found = dropouts(model)
        if not found:
            raise ValueError(
                f"gaussian_dropout: {type(model).__name__} has no dropout layer; put nn.Dropout(0.0) where it is to act"
            )
        for layer in found:
            whole = isinstance(layer, FeatureDropout)
            behind(layer, "gaussian_dropout", GaussianDropout(self.p, "channel" if whole else "unit"))
        return model

"""Stochastic depth as a defense: every client draws which residual branches are there at all."""

from __future__ import annotations

from typing import Literal

from torch import nn

from defenses.base import Defense, register
from defenses.stochastic.depth import StochasticDepth
from defenses.stochastic.places import behind, branches


@register("stochastic_depth")
class StochasticDepthDefense(Defense):
    """Drop residual branches, the later ones more often: the l-th of L blocks at rate `p l / L` (Huang et al., ECCV
    2016). A branch that stays is divided by its chance to stay.

    It finds the blocks of `vit`, `resnet18` and torchvision's ResNets, and those of any model whose blocks have an
    attribute `residual_branches`, the names of the modules whose outputs are added to the shortcut.

    Args:
        p: the rate of the last block, in [0, 1).
        per: `batch`, one draw a branch for all examples of a step, or `example`, one for each.
    """

    behind = True

    def __init__(self, *, p: float = 0.5, per: Literal["batch", "example"] = "batch") -> None:
        if not 0 <= p < 1:
            raise ValueError(f"stochastic_depth: p = {p} is not in [0, 1)")
        if per not in ("batch", "example"):
            raise ValueError(f"stochastic_depth: per = {per} is not batch or example")
        self.p, self.per = p, per

    def on_model(self, model: nn.Module) -> nn.Module:
        blocks = [found for block in model.modules() if (found := branches(block))]
        if not blocks:
            raise ValueError(
                f"stochastic_depth: {type(model).__name__} has no residual block that is known; give its blocks an "
                "attribute residual_branches, the names of the modules that are added to the shortcut"
            )
        for number, found in enumerate(blocks, start=1):
            for branch in found:
                behind(branch, "stochastic_depth", StochasticDepth(self.p * number / len(blocks), self.per))
        return model

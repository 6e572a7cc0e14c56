"""LayerDrop as a defense: every client draws which blocks of the model are there at all."""

from __future__ import annotations

from typing import Literal

from torch import nn

from defenses.base import Defense, register
from defenses.stochastic.depth import LayerDrop
from defenses.stochastic.places import around, branches, keeps_shape


@register("layerdrop")
class LayerDropDefense(Defense):
    """Skip whole blocks, each at the same rate: what enters a dropped block leaves it (Fan, Grave, Joulin, ICLR 2020).

    As in the paper nothing is scaled by the chance to stay, and in evaluation mode all blocks are there. It finds the
    blocks of `vit`, `resnet18` and torchvision's ResNets, and those of any model whose blocks have an attribute
    `residual_branches`; blocks with a shortcut of their own, which change the shape, stay.

    Args:
        p: the rate at which blocks are dropped, in [0, 1).
        per: `batch`, one draw a block for all examples of a step, or `example`, one for each.
    """

    behind = True

    def __init__(self, *, p: float = 0.2, per: Literal["batch", "example"] = "batch") -> None:
        if not 0 <= p < 1:
            raise ValueError(f"layerdrop: p = {p} is not in [0, 1)")
        if per not in ("batch", "example"):
            raise ValueError(f"layerdrop: per = {per} is not batch or example")
        self.p, self.per = p, per

    def on_model(self, model: nn.Module) -> nn.Module:
        found = [block for block in model.modules() if branches(block) and keeps_shape(block)]
        if not found:
            raise ValueError(
                f"layerdrop: {type(model).__name__} has no residual block that is known and keeps its shape; give its "
                "blocks an attribute residual_branches, the names of the modules that are added to the shortcut"
            )
        for block in found:
            around(block, "layerdrop", LayerDrop(self.p, self.per))
        return model

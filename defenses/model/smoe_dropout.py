"""SMoE-Dropout as a defense: each token passes a few of the experts that its feed-forward layers are split into."""

from __future__ import annotations

from torch import nn

from defenses.base import Defense, register
from defenses.stochastic.experts import Experts
from defenses.stochastic.places import expert_layers, weighing


@register("smoe_dropout")
class SMoEDropout(Defense):
    """Split the hidden units of feed-forward layers into experts, of which each token passes k: those that a router
    prefers that is initialised at random and never trained. k rises in training; in evaluation mode it is all.

    Chen, Zhang, Jaiswal, Liu, Wang, *Sparse MoE as the New Dropout*, ICLR 2023 (arXiv 2303.01610), after its published
    code, whose values these are (their iterations are rounds here). Each expert is weighted by the softmax of the
    router's logits of those chosen. As there the router is part of the model, so that the server has it too: which
    experts a token passed is no secret but that of the token. Ours is that the choice is a random site, which attackers
    read, enumerate or relax; that the experts share the second layer's bias; and the hidden layers of an `mlp`.

    It finds blocks with layers `linear1` and `linear2` or `fc1` and `fc2`, the hidden layers of `mlp`, and those of any
    model whose blocks have an attribute `expert_layers`: the names of the linear layer whose outputs are the units
    and of the module that is given what they compute.

    Args:
        experts: how many groups the units are split into, at least 2; it must divide them.
        least: k in the first round, from 1 to `experts`.
        rising: rounds over which k rises in equal steps to `experts`; 0: it is `least` in all.
    """

    adds_parameters = True
    pretrains = False
    behind = True

    def __init__(self, *, experts: int = 16, least: int = 8, rising: int = 0) -> None:
        for key, value, low in (("experts", experts, 2), ("least", least, 1), ("rising", rising, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"smoe_dropout: {key} = {value} is not a whole number of at least {low}")
        if least > experts:
            raise ValueError(f"smoe_dropout: least = {least} is not a number of experts, of which there are {experts}")
        self.experts, self.least, self.rising = experts, least, rising

    def on_model(self, model: nn.Module) -> nn.Module:
        found = expert_layers(model)
        if not found:
            raise ValueError(
                f"smoe_dropout: {type(model).__name__} has no feed-forward layers that are known; give its blocks an "
                "attribute expert_layers, the names of the layer that computes the units and of that which they go to"
            )
        for path, first, last in found:
            if first.out_features % self.experts:
                raise ValueError(
                    f"smoe_dropout: experts = {self.experts} does not divide the {first.out_features} units of {path}"
                )
            layer = Experts(
                first.in_features,
                experts=self.experts,
                least=self.least,
                rising=self.rising,
                weight=f"{path}.weight" if path else "weight",
            )
            weighing(first, last, "smoe_dropout", layer.to(first.weight))
        return model

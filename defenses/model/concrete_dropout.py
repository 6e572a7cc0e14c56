"""Concrete dropout as a defense: the rate of each layer's dropout is a weight that clients train."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from defenses.base import Defense, register
from defenses.stochastic.concrete import ConcreteDropout
from defenses.stochastic.places import before, inner_linears

CHILD = "concrete_dropout"


@register("concrete_dropout")
class ConcreteDropoutDefense(Defense):
    """Dropout at a learnt rate before every linear layer but one that sees the image (Gal et al., NeurIPS 2017).

    The rates are parameters, one a layer, which are sent and trained with the model's. The loss has the paper's two
    terms of each layer: its squared weights over the chance to stay, and the entropy of its mask.

    Args:
        p: the rate before training, in (0, 1).
        temperature: of the relaxed mask, positive; the paper's is 0.1.
        decay: weight of the squared weights, at least 0.
        entropy: weight of the entropy of a unit's mask, at least 0.
    """

    adds_parameters = True
    behind = True

    def __init__(
        self, *, p: float = 0.1, temperature: float = 0.1, decay: float = 1e-6, entropy: float = 1e-5
    ) -> None:
        if not 0 < p < 1:
            raise ValueError(f"concrete_dropout: p = {p} is not in (0, 1)")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"concrete_dropout: temperature = {temperature} is not a positive number")
        for key, value in (("decay", decay), ("entropy", entropy)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"concrete_dropout: {key} = {value} is not a number of at least 0")
        self.p, self.temperature, self.decay, self.entropy = p, temperature, decay, entropy

    def on_model(self, model: nn.Module) -> nn.Module:
        found = inner_linears(model)
        if not found:
            raise ValueError(f"concrete_dropout: {type(model).__name__} has no linear layer but what sees the image")
        if any(isinstance(layer, ConcreteDropout) for layer in model.modules()):
            raise ValueError("concrete_dropout: the model has learnt rates already; once is enough")
        for linear in found:
            layer = ConcreteDropout(self.p, self.temperature, decay=self.decay, entropy=self.entropy)
            linear.register_forward_pre_hook(_noted)
            before(linear, CHILD, layer.to(linear.weight))
        return model

    def loss_term(self, model: nn.Module) -> Tensor | float:
        return sum((layer.term for layer in model.modules() if isinstance(layer, ConcreteDropout)), start=0.0)


def _noted(linear: nn.Linear, inputs: tuple[Any, ...]) -> None:
    layer = linear.get_submodule(CHILD)
    assert isinstance(layer, ConcreteDropout)
    layer.note(linear.weight)  # what stands in its place, where a weight is substituted

"""PRECODE: a variational bottleneck before the last layer, so that gradients depend on what a client drew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from defenses.base import Defense, register
from defenses.stochastic.bottleneck import Bottleneck

CHILD = "bottleneck"


@register("precode")
class Precode(Defense):
    """Encode what enters the last linear layer, draw from that code, decode (Scheliga, Mäder, Seeland, WACV 2022).

    Gradients of the parameters behind the draw say what was drawn rather than what was seen, and an attacker who knows
    the defense leaves them out (Scheliga et al., arXiv 2208.04767).

    Args:
        size: entries of the code, at least 1.
        beta: weight of the code's divergence from a standard normal in the loss, at least 0.
    """

    adds_parameters = True
    behind = True

    def __init__(self, *, size: int = 256, beta: float = 0.001) -> None:
        if size < 1:
            raise ValueError(f"precode: size = {size} is not a whole number of at least 1")
        if not 0 <= beta < float("inf"):
            raise ValueError(f"precode: beta = {beta} is not a number of at least 0")
        self.size, self.beta = size, beta

    def on_model(self, model: nn.Module) -> nn.Module:
        heads = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        if not heads:
            raise ValueError(f"precode: {type(model).__name__} has no linear layer to put a bottleneck before")
        head = heads[-1]
        head.add_module(CHILD, Bottleneck(head.in_features, self.size).to(head.weight))
        head.register_forward_pre_hook(_through)
        return model

    def loss_term(self, model: nn.Module) -> Tensor | float:
        return self.beta * sum(layer.divergence for layer in model.modules() if isinstance(layer, Bottleneck))

    def selection(self, observed: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """All but the decoder and the head."""
        head = next((n.rpartition(CHILD)[0] for n in observed if f"{CHILD}.encoder." in n), None)
        if head is None:
            return None
        before = {n for n in observed if not n.startswith(head) or f"{CHILD}.encoder." in n}
        return {n: torch.full_like(v, n in before, dtype=torch.bool) for n, v in observed.items()}


def _through(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (head.get_submodule(CHILD)(inputs[0]), *inputs[1:])

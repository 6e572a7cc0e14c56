"""LoRA with dropout as a defense: clients train and send low-rank adapters alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from defenses.base import Defense, register
from defenses.stochastic.lora import Adapter
from defenses.stochastic.places import linears

CHILD = "lora"


@register("lora_dropout")
class LoraDropoutDefense(Defense):
    """Freeze the model, and train a low-rank adapter beside every linear layer, with dropout of what enters it (Hu et
    al., ICLR 2022).

    The model that is frozen is the one that the first round sends: pretrain it, or give a checkpoint.

    Args:
        p: the rate at which inputs of an adapter are dropped, in [0, 1).
        rank: of an adapter, at least 1.
        alpha: an adapter is scaled by alpha / rank; positive.
    """

    adds_parameters = True
    pretrains = False

    def __init__(self, *, p: float = 0.1, rank: int = 8, alpha: float = 16.0) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"lora_dropout: p = {p} is not in [0, 1)")
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ValueError(f"lora_dropout: rank = {rank} is not a whole number of at least 1")
        if not 0 < alpha < float("inf"):
            raise ValueError(f"lora_dropout: alpha = {alpha} is not a positive number")
        self.p, self.rank, self.alpha = p, rank, alpha

    def on_model(self, model: nn.Module) -> nn.Module:
        found = linears(model)
        if not found:
            raise ValueError(f"lora_dropout: {type(model).__name__} has no linear layer to put an adapter beside")
        if any(isinstance(layer, Adapter) for layer in model.modules()):
            raise ValueError("lora_dropout: the model has adapters already; once is enough")
        model.requires_grad_(False)
        for linear in found:
            linear.add_module(CHILD, Adapter(linear, rank=self.rank, alpha=self.alpha, p=self.p))
            linear.register_forward_hook(_beside, prepend=True)  # it is part of the layer, whatever acts behind that
        return model


def _beside(linear: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    adapted: Tensor = linear.get_submodule(CHILD)(inputs[0])
    return output + adapted

"""Low-rank adapters with dropout (LoRA: Hu et al., ICLR 2022; its dropout as in their code)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from defenses.stochastic.dropout import Dropout


class Adapter(nn.Module):
    """`alpha / rank * up(down(dropout(x)))`, zero before training.

    Args:
        linear: the layer that it stands beside.
        rank: units between down and up.
        alpha: the scale's numerator.
        p: the rate at which what enters the adapter is dropped, in [0, 1).

    Shape:
        x: (B, ..., inputs) -> (B, ..., outputs)
    """

    def __init__(self, linear: nn.Linear, *, rank: int, alpha: float, p: float) -> None:
        super().__init__()
        like = {"dtype": linear.weight.dtype, "device": linear.weight.device}
        self.dropout = Dropout(p)
        self.dropout.added = True
        self.down = nn.Linear(linear.in_features, rank, bias=False, **like)
        self.up = nn.Linear(rank, linear.out_features, bias=False, **like)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        adapted: Tensor = self.up(self.down(self.dropout(x)))
        return self.scale * adapted

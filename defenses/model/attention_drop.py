"""Dropped attention as a defense: every client draws which tokens attend to which."""

from __future__ import annotations

from typing import Literal

from torch import nn

from defenses.base import Defense, register
from defenses.stochastic.attention import AttentionDropout
from defenses.stochastic.places import attention_weights, behind


@register("attention_drop")
class AttentionDropDefense(Defense):
    """Drop attention weights, behind the model's own dropout of them.

    `weights` at the scale of the rate is the dropout of Vaswani et al. (NeurIPS 2017), with `rows` DropKey (Li et al.,
    CVPR 2023); `keys` with `rows` is DropAttention by columns (Zehui et al., arXiv 1907.11065); `heads` with `rows`
    is DropHead (Zhou et al., EMNLP 2020), whose heads that stay are multiplied by how many there are for each of them.

    It finds the layers `attention_dropout` and `attn_drop`, and what a module's attribute `attention_weights` names:
    a module of it whose output is its attention weights.

    Args:
        p: the rate, in [0, 1).
        drop: `weights`, one draw each; `keys`, one for all queries of a head; `heads`.
        scale: `rate`, by 1 / (1 - p), or `rows`, so that each query's weights add up to 1, over all heads on average
            where heads are dropped.
    """

    behind = True

    def __init__(
        self,
        *,
        p: float = 0.5,
        drop: Literal["weights", "keys", "heads"] = "weights",
        scale: Literal["rate", "rows"] = "rate",
    ) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"attention_drop: p = {p} is not in [0, 1)")
        if drop not in ("weights", "keys", "heads"):
            raise ValueError(f"attention_drop: drop = {drop} is not weights, keys or heads")
        if scale not in ("rate", "rows"):
            raise ValueError(f"attention_drop: scale = {scale} is not rate or rows")
        self.p, self.drop, self.scale = p, drop, scale

    def on_model(self, model: nn.Module) -> nn.Module:
        found = attention_weights(model)
        if not found:
            inside = next((path for path, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)), None)
            why = "has no attention that shows its weights" if inside is None else f"computes them inside of {inside!r}"
            raise ValueError(
                f"attention_drop: {type(model).__name__} {why}; write it with nn.Dropout(0.0) named attention_dropout "
                "behind the softmax"
            )
        for weights in found:
            behind(weights, "attention_drop", AttentionDropout(self.p, self.drop, self.scale))
        return model

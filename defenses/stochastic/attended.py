"""Attention that drops some of its weights inside, by its formula: what it drops is then a draw like any other.

`F.scaled_dot_product_attention(..., dropout_p=0.1)` and `nn.MultiheadAttention`, which calls it, draw within a kernel.
Computed in two steps, the weights and what becomes of them, the dropout between them can be a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ATTENTION = F.scaled_dot_product_attention
DROPOUT = F.dropout
MULTI_HEAD = F.multi_head_attention_forward

Handler = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]
"""From a function of torch and what it is called with to what it returns."""


def rate_of(function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> float:
    """The rate at which a call drops weights of attention; 0 for any other call."""
    if function is not ATTENTION:
        return 0.0
    return float(arguments[4] if len(arguments) > 4 else keywords.get("dropout_p", 0.0))


def attended(drop: Callable[[Tensor], Tensor], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Tensor:
    """What `F.scaled_dot_product_attention` computes, with `drop` in place of its dropout.

    Args:
        drop: of the weights (..., heads, queries, keys), after their softmax.
    """
    return _attended(drop, *arguments, **keywords)


def _attended(
    drop: Callable[[Tensor], Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        allowed = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if allowed else scores + attn_mask
    return drop(scores.softmax(-1)) @ value


def inside(handler: Handler, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """Call `F.multi_head_attention_forward`, which no mode looks into, and let a handler have what may drop in it."""
    names = ("dropout", "scaled_dot_product_attention")
    own = {name: getattr(F, name) for name in names}

    def handled(function: Any, *given: Any, **named: Any) -> Any:
        return handler(function, given, named)

    try:
        for name, function in own.items():
            setattr(F, name, partial(handled, function))
        return MULTI_HEAD(*arguments, **keywords)
    finally:
        for name, function in own.items():
            setattr(F, name, function)

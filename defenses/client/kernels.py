"""Layers that compute by a fused kernel, made to compute by their formula: most kernels have no second derivative.

`F.scaled_dot_product_attention` picks a kernel, and so do those that call it: `nn.MultiheadAttention`,
`nn.TransformerEncoderLayer`, most vision transformers. Recurrent layers have one of oneDNN, which `vmap` calls problem
by problem. Training needs one derivative; matching an update differentiates a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def by_formula(model: nn.Module) -> Iterator[None]:
    """While open, what the model computes can be differentiated as often as one likes."""
    onednn = torch._C._get_mkldnn_enabled()
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):  # others are faster with it
        torch._C._set_mkldnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch._C._set_mkldnn_enabled(onednn)


def start_recurrences(model: nn.Module) -> None:
    """Let recurrent layers that are given no state start from zeros like their input, in place.

    Their own zeros are not mapped over problems by `vmap`, and they add what is into them.
    """
    for module in model.modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            module.register_forward_pre_hook(_with_state, with_kwargs=True)


def _with_state(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    entering, *state_given = (*inputs, *named.values())
    if not isinstance(entering, Tensor) or any(given is not None for given in state_given):
        return None
    return (entering, _zeros(module, entering)), {}


def _zeros(module: nn.Module, entering: Tensor) -> Any:
    if isinstance(module, nn.RNNCellBase):
        state = entering.new_zeros(*entering.shape[:-1], module.hidden_size)
        return (state, state) if isinstance(module, nn.LSTMCell) else state
    assert isinstance(module, nn.RNNBase)
    layers = module.num_layers * (2 if module.bidirectional else 1)
    batch = () if entering.dim() == 2 else (entering.shape[0 if module.batch_first else 1],)
    state = entering.new_zeros(layers, *batch, module.proj_size or module.hidden_size)
    cell = entering.new_zeros(layers, *batch, module.hidden_size)
    return (state, cell) if isinstance(module, nn.LSTM) else state

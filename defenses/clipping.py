"""Clipping an update as a whole: what a client does before it sends one, or a server once it has received one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def global_norm(update: Mapping[str, Tensor]) -> Tensor:
    """The L2 norm over all entries of all tensors, as a float64 scalar."""
    return torch.stack([value.double().square().sum() for value in update.values()]).sum().sqrt()


def clipped(update: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
    """The update, scaled down to an L2 norm of at most `norm`."""
    scale = norm / global_norm(update).clamp(min=norm)  # no branch: it must hold under torch.func
    return {name: value * scale.to(value.dtype) for name, value in update.items()}

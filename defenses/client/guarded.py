"""Functions with a finite derivative where the usual one has none: attackers differentiate what a client computes."""

from __future__ import annotations

import torch
from torch import Tensor


def root(value: Tensor) -> Tensor:
    """The square root, with a derivative of 0 at 0: units that were dropped have no gradient, and would make it NaN."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, torch.ones_like(value)).sqrt(), torch.zeros_like(value))

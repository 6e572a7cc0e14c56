"""The weighted mean that federated averaging needs of its clients, and secure aggregation lets a server see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def weighted_mean(values: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The mean by name, summed up in float64, in the tensors' own dtypes (of integers: rounded)."""
    total = float(sum(weights))
    return {name: _mean([one[name] for one in values], weights, total) for name in values[0]}


def _mean(values: Sequence[Tensor], weights: Sequence[float], total: float) -> Tensor:
    mean = torch.stack([value.double() * (weight / total) for value, weight in zip(values, weights)]).sum(0)
    like = values[0]
    return mean.to(like.dtype) if like.is_floating_point() else mean.round().to(like.dtype)

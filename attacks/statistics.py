"""What returned buffers say of a client's batches: the statistics that batch norm normalised them by.

In train mode a batch-norm layer moves its running statistics by each batch that passes it,

    running <- (1 - m) running + m batch

with its momentum m, the variance as an unbiased one. Whoever sent the old ones and is sent the new ones knows the mean
of the batches' statistics, weighted by what each step left of the ones before: of one local step the very batch's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

Tensors = Mapping[str, Tensor]

MEAN, VARIANCE, COUNT = "running_mean", "running_var", "num_batches_tracked"


@dataclass(frozen=True)
class Statistics:
    """What a layer's input is believed to have been like.

    Args:
        mean, variance: (C,) float64, the variance unbiased, over examples and positions.
        shares: (S,) float64, how much each local step's batch counts in them; they add up to 1.
    """

    mean: Tensor
    variance: Tensor
    shares: Tensor


def revealed(state: Tensors, buffers: Tensors) -> Literal["none", "running", "batch"]:
    """What a server learns that sent `state` and was sent `buffers`: no statistics of a normalisation, running ones
    that no batch of the client has moved, or those of the client's batches."""
    layers = [name.removesuffix(MEAN) for name in state if name.endswith(MEAN)]
    if not layers:
        return "none"
    return "batch" if any(_moved(layer, state, buffers) for layer in layers) else "running"


def running(path: str, state: Tensors, *, steps: int) -> Statistics:
    """A layer's running statistics, as they were sent: of every step alike."""
    mean, variance = (state[f"{path}.{name}"].double() for name in (MEAN, VARIANCE))
    return Statistics(mean, variance, torch.full((steps,), 1 / steps, dtype=torch.float64))


def of_batches(path: str, layer: _BatchNorm, state: Tensors, buffers: Tensors) -> Statistics | None:
    """Those of the batches that passed a layer in a round; None where none has moved what it keeps."""
    if not _moved(f"{path}.", state, buffers):
        return None
    before, after = (int(each[f"{path}.{COUNT}"]) for each in (state, buffers))
    steps = after - before
    if layer.momentum is None:  # the mean of all batches ever seen
        kept, left = before / after, torch.full((steps,), 1 / after, dtype=torch.float64)
    else:
        kept = (1 - layer.momentum) ** steps
        left = layer.momentum * (1 - layer.momentum) ** torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    mean, variance = (
        (buffers[f"{path}.{name}"].double() - kept * state[f"{path}.{name}"].double()) / (1 - kept)
        for name in (MEAN, VARIANCE)
    )
    return Statistics(mean, variance, left / (1 - kept))


def _moved(prefix: str, state: Tensors, buffers: Tensors) -> bool:
    """Whether batches have moved a layer's running statistics."""
    names = [prefix + name for name in (MEAN, VARIANCE)]
    counted = prefix + COUNT in state and prefix + COUNT in buffers and all(name in buffers for name in names)
    if not counted or not bool(buffers[prefix + COUNT] > state[prefix + COUNT]):
        return False
    return not all(torch.equal(buffers[name], state[name]) for name in names)

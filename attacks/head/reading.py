"""What stands at a linear layer, read off the update of one image: its input, and the delta at its output."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.base import NotApplicable
from attacks.closed_form.masks import zero_columns
from attacks.head.finding import Head
from attacks.observation import Observation
from attacks.updates import observed_gradient

_MARGIN = 32
"""How much larger than rounding explains a residual may be."""

_COARSEST = 1e-2
"""Relative error at which a reading is not worth having."""


@dataclass(frozen=True)
class Reading:
    """What stands at a layer.

    Args:
        features: its input (units,) float64, zero where dropped.
        delta: the gradient at its output (units,) float64, scaled as the update is: clipping scales it.
    """

    features: Tensor
    delta: Tensor


def read_head(head: Head, observation: Observation, label: int) -> Reading:
    """The features and the delta at a layer.

    Args:
        observation: an update of one image in one step, as a gradient or a weight delta; it holds the layer's weight,
            and its bias unless that was not trained.
        label: of the image.

    Raises:
        NotApplicable: the head's gradient is zero or no single outer product (noise, pruning, more images), or does not
            determine the vectors' lengths, or is not that of a softmax cross-entropy.
    """
    if head.bias is not None and not _trained(observation, head.bias):
        head = replace(head, bias=None)
    names = [head.weight] if head.bias is None else [head.weight, head.bias]
    exact = observed_gradient(replace(observation, update={n: observation.update[n].double() for n in names}))
    assert exact is not None
    gradient = torch.cat([exact[name].flatten(1) if name == head.weight else exact[name][:, None] for name in names], 1)
    size = gradient.norm()
    if size == 0:
        raise NotApplicable("the head's gradient is zero")
    rounding = _rounding(observation, names, float(size))
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    residual = float(values[1:].norm() / size)
    if residual > _MARGIN * rounding:
        raise NotApplicable(
            f"the head's gradient is not that of one image: rank one leaves {residual:.1e} of it, rounding explains "
            f"{rounding:.1e} (noise or pruning)"
        )
    delta, features = values[0] * left[:, 0], right[0]
    if head.last and delta[label] > 0:  # the sign of a singular pair is arbitrary; the delta falls at the label alone
        delta, features = -delta, -features
    length = _length(head, delta, features, label, rounding)
    delta, features = delta / length, features[: head.layer.in_features] * length
    off = abs(delta.sum()) / delta.norm() if head.last else 0.0
    if off > _MARGIN * (rounding * max(1.0, float(length)) + _cancellation(head, observation, features, label)):
        raise NotApplicable("the delta at the head does not add up to zero: the loss is no softmax cross-entropy")
    if not head.last and len(delta) > 2 and (delta.abs() - delta.abs().mean()).norm() <= _COARSEST * delta.norm():
        raise NotApplicable(f"all entries of the delta at {head.weight} are of one size: they are signs")
    return Reading(features.masked_fill(zero_columns(observation, head.weight), 0), delta)


def _trained(observation: Observation, name: str) -> bool:
    """Whether an update came back for a parameter; one that is zero throughout was not trained."""
    return name in observation.update and bool(observation.update[name].any())


def _cancellation(head: Head, observation: Observation, features: Tensor, label: int) -> float:
    """The client's own relative error in delta = softmax - one-hot: of a confident prediction few digits are left."""
    weight, bias = head.layer.weight.double(), head.layer.bias
    softmax = (weight @ features + (0 if bias is None else bias.double())).softmax(0)
    delta = softmax - torch.nn.functional.one_hot(torch.tensor(label), len(softmax)).to(softmax)
    return torch.finfo(getattr(torch, observation.precision)).eps / max(float(delta.norm()), 1e-300)


def _length(head: Head, delta: Tensor, features: Tensor, label: int, rounding: float) -> Tensor:
    """The factor between the unit vector `features` and the head's input."""
    if head.bias is not None:  # its last entry stands for the constant input 1 of the bias
        if features[-1].abs() * _COARSEST < rounding:
            raise NotApplicable("the head's bias has too small a gradient to scale its weight's by")
        return 1 / features[-1]
    without = "the head has no bias" if head.layer.bias is None else "the head's bias is not in the update"
    share = delta / delta.norm()
    others = [k for k in range(len(share)) if k != label and share[k] > rounding]
    if len(others) < 2 or (share < -_MARGIN * rounding).sum() != 1:
        raise NotApplicable(f"{without}, and too few classes or a delta of no single label to scale it by")
    logits, logs = (head.layer.weight.double() @ features)[others], share[others].log()
    if head.layer.bias is not None:  # known, though nothing came back for it
        logs = logs - head.layer.bias.double()[others]
    weight = share[others].square() / share[others].square().sum()  # the variance of log delta is as 1 / delta^2
    spread = logits - weight @ logits
    variance = weight @ spread.square()
    length = weight @ (spread * logs) / variance.clamp_min(1e-300)
    misfit = (weight @ (logs - weight @ logs - length * spread).square()).sqrt()
    unsure = rounding / share[others].norm() / (length * variance.sqrt())
    if not (length > 0 and unsure < _COARSEST and misfit < _MARGIN * rounding / share[others].norm()):
        raise NotApplicable(f"{without}, and its delta does not determine the length of its input")
    return length


def _rounding(observation: Observation, names: list[str], size: float) -> float:
    """How large a relative error the update's precision explains."""
    eps = torch.finfo(getattr(torch, observation.precision)).eps
    if observation.kind == "gradient":
        return eps
    assert observation.local is not None
    weights = sum(float(observation.state[name].double().square().sum()) for name in names) ** 0.5
    rate = max(part.rate(0) for part in observation.local.parts(names))
    rounding = eps * (1 + weights / (rate * size))
    if rounding > _COARSEST:
        raise NotApplicable(f"the head's weight delta has lost its digits: rounding is {rounding:.0%} of it")
    return rounding

"""What the update of one image reveals at the model's head, its last linear layer, whatever was dropped before it.

The head sees one vector h (after dropout, so `h * m / (1-p)` where a mask m was drawn) and gets one delta from the
loss, `softmax(W h + b) - onehot` for cross-entropy. Hence

    dL/dW = delta h^T        dL/db = delta

are of rank one together and give both vectors exactly. Without a bias their lengths are open: `delta` is known up to a
factor, and `log delta_k = t (W v)_k + const` over the classes k other than the label, a straight line in the logits of
the unit vector v along h; its slope t is the length of h.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable
from attacks.closed_form.masks import zero_columns
from attacks.observation import Observation
from attacks.unknowns import Setting
from attacks.updates import observed_gradient

_MARGIN = 32
"""How much larger than rounding explains a residual may be."""
_COARSEST = 1e-2
"""Relative error at which a reading is not worth having."""


@dataclass(frozen=True)
class Head:
    """The layer that gives the logits.

    Args:
        weight, bias: its parameter names; bias is None where it has none, or where the update lacks it.
    """

    layer: nn.Linear
    weight: str
    bias: str | None


@dataclass(frozen=True)
class Reading:
    """What stands at the head.

    Args:
        features: its input (units,) float64, zero where dropped.
        delta: the gradient at its output (classes,) float64, scaled as the update is: clipping scales it.
    """

    features: Tensor
    delta: Tensor


def find_head(setting: Setting) -> Head:
    """The last linear layer, found by watching one image pass through the model.

    Raises:
        NotApplicable: there is none that makes logits of one vector.
    """
    model = setting.model
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def watch(path: str) -> Any:
        return lambda layer, inputs, output: calls.setdefault(path, []).append((inputs[0], output))

    watched = {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    handles = [layer.register_forward_hook(watch(path)) for path, layer in watched.items()]
    like = next(model.parameters())
    probe = torch.rand(1, *setting.input_shape, generator=torch.Generator().manual_seed(0)).to(like)
    try:
        with torch.no_grad():
            logits = model(probe)
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        raise NotApplicable("the model has no linear layer, so no linear head")
    path = list(calls)[-1]
    [(seen, made), *others] = calls[path]
    if others or seen.dim() != 2 or len(seen) != 1:
        raise NotApplicable(f"the last linear layer, {path}, sees more than one vector an image")
    if not torch.equal(made, logits):
        raise NotApplicable(f"the logits are not the output of the last linear layer, {path}")
    prefix = f"{path}." if path else ""
    layer = watched[path]
    return Head(layer, f"{prefix}weight", None if layer.bias is None else f"{prefix}bias")


def _trained(observation: Observation, name: str) -> bool:
    """Whether an update came back for a parameter; one that is zero throughout was not trained."""
    return name in observation.update and bool(observation.update[name].any())


def read_head(head: Head, observation: Observation, label: int) -> Reading:
    """The features and the delta at the head.

    Args:
        observation: an update of one image in one step, as a gradient or a weight delta; it holds the head's weight,
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
    if delta[label] > 0:  # the sign of a singular pair is arbitrary; the delta falls at the label alone
        delta, features = -delta, -features
    length = _length(head, delta, features, label, rounding)
    delta, features = delta / length, features[: head.layer.in_features] * length
    off = abs(delta.sum()) / delta.norm()
    if off > _MARGIN * (rounding * max(1.0, float(length)) + _cancellation(head, observation, features, label)):
        raise NotApplicable("the delta at the head does not add up to zero: the loss is no softmax cross-entropy")
    return Reading(features.masked_fill(zero_columns(observation, head.weight), 0), delta)


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
    rounding = eps * (1 + weights / (observation.local.learning_rate * size))
    if rounding > _COARSEST:
        raise NotApplicable(f"the head's weight delta has lost its digits: rounding is {rounding:.0%} of it")
    return rounding

"""What the update of one image reveals at a linear layer that sees one vector, whatever was dropped before it.

It sees one vector h (after dropout, so `h * m / (1-p)` where a mask m was drawn) and gets one delta from all that lies
behind it, at the head `softmax(W h + b) - onehot` for cross-entropy. Hence

    dL/dW = delta h^T        dL/db = delta

are of rank one together and give both vectors exactly. So a model can be *cut* at such a layer: where all that the loss
depends on passes through it, what lies behind the layer acts on what lies before it by delta alone, and may be random,
unknown, or part of a defense. The earliest such layer leaves least to be found.

Without a bias the lengths of both vectors are open, and only at the head, the model's last linear layer, they can be
told: `delta` is known up to a factor, and `log delta_k = t (W v)_k + const` over the classes k other than the label, a
straight line in the logits of the unit vector v along h; its slope t is the length of h.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.base import NotApplicable
from attacks.closed_form.masks import zero_columns
from attacks.observation import Observation
from attacks.updates import lacks, observed_gradient, replayed
from defenses.stochastic import StochasticLayer

_MARGIN = 32
"""How much larger than rounding explains a residual may be."""
_COARSEST = 1e-2
"""Relative error at which a reading is not worth having."""


@dataclass(frozen=True)
class Head:
    """A linear layer at which a model is read: the one that gives the logits, or one before it.

    Args:
        weight, bias: its parameter names; bias is None where it has none, or where the update lacks it.
        last: whether it gives the logits.
    """

    layer: nn.Linear
    weight: str
    bias: str | None
    last: bool = True


@dataclass(frozen=True)
class Cut:
    """Where a model is cut, and what lies before.

    Args:
        head: the layer, which now stands at the end.
        before: the parameters before it, in the model's order.
        sites: the stochastic layers that are called before it, by module path.
        untouched: whether it sees the image itself, flattened.
    """

    head: Head
    before: tuple[str, ...]
    sites: tuple[str, ...]
    untouched: bool


@dataclass(frozen=True)
class Reading:
    """What stands at a layer.

    Args:
        features: its input (units,) float64, zero where dropped.
        delta: the gradient at its output (units,) float64, scaled as the update is: clipping scales it.
    """

    features: Tensor
    delta: Tensor


def find_head(model: nn.Module, input_shape: tuple[int, int, int]) -> Head:
    """The last linear layer, found by watching one image pass through the model.

    Raises:
        NotApplicable: there is none that makes logits of one vector.
    """
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def watch(path: str) -> Any:
        return lambda layer, inputs, output: calls.setdefault(path, []).append((inputs[0], output))

    watched = {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    handles = [layer.register_forward_hook(watch(path)) for path, layer in watched.items()]
    like = next(model.parameters())
    probe = torch.rand(1, *input_shape, generator=torch.Generator().manual_seed(0)).to(like)
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
    return _named(model, path, last=True)


def find_cut(
    model: nn.Module, input_shape: tuple[int, int, int], trained: Collection[str], term: Callable[[nn.Module], Any]
) -> Cut:
    """The earliest linear layer at which a model can be cut: with a trained bias and one call, on one vector, that all
    passes through on its way to the loss. Otherwise the head.

    Args:
        model: an `attacker_copy`.
        trained: the parameters that the update holds.
        term: of the model after its forward pass, what is known to be added to the loss.

    Raises:
        NotApplicable: there is no such layer, and no head of one vector that makes the logits.
    """
    path = next(iter(_cuttable(model, input_shape, trained, term)), None)
    head = find_head(model, input_shape) if path is None else _named(model, path, last=False)
    if path is None and head.weight not in trained:
        raise NotApplicable(lacks(f"the head's weight, {head.weight}"))
    calls, leaves, _ = _traced(model, input_shape)
    place = next(at for at, call in enumerate(calls) if call.layer is head.layer)
    reached = _reached(calls[place].seen, leaves)
    seen, image = calls[place].seen, leaves[_IMAGE]
    return Cut(
        head=replace(head, last=path is None or calls[place].last),
        before=tuple(name for name in leaves if name in reached and name != _IMAGE),
        sites=tuple(call.path for call in calls[:place] if isinstance(call.layer, StochasticLayer)),
        untouched=torch.equal(seen, image.flatten(1)),
    )


_IMAGE = ":image"


@dataclass(frozen=True)
class _Call:
    """A call of a linear or of a stochastic layer: what it saw and made, and whether that is the logits."""

    path: str
    layer: nn.Module
    seen: Tensor
    made: Tensor
    last: bool = False


def _traced(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    term: Callable[[nn.Module], Any] = lambda model: 0.0,
    *,
    severed: str | None = None,
) -> tuple[list[_Call], dict[str, Tensor], Tensor]:
    """One random image on its way through a model: the calls in order, the leaves of the graph (the image and the
    parameters, by name), and all that the loss depends on, as one number.

    Args:
        term: of the model after its forward pass.
        severed: the path of a layer whose output forgets where it came from.
    """
    calls: list[_Call] = []

    def watch(path: str) -> Any:
        def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            calls.append(_Call(path, layer, inputs[0], output))
            return output.detach() if path == severed else output

        return note

    watched = {path: m for path, m in model.named_modules() if isinstance(m, (nn.Linear, StochasticLayer))}
    handles = [layer.register_forward_hook(watch(path)) for path, layer in watched.items()]
    like = next(model.parameters())
    image = torch.rand(1, *input_shape, generator=torch.Generator().manual_seed(0)).to(like).requires_grad_()
    leaves = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    own = {name: value.clone() for name, value in model.named_buffers()}  # a forward pass may count in them
    try:
        with torch.enable_grad(), replayed("read"):
            logits = functional_call(model, {**own, **leaves}, (image,))
            whole = logits.sum() + term(model)
    finally:
        for handle in handles:
            handle.remove()
    calls = [replace(call, last=call.made is logits) for call in calls]
    return calls, {**leaves, _IMAGE: image}, whole


def _cuttable(
    model: nn.Module, input_shape: tuple[int, int, int], trained: Collection[str], term: Callable[[nn.Module], Any]
) -> Iterator[str]:
    """The paths of the layers at which a model can be cut, from the first that sees the image itself, or that something
    lies before which was trained: by its own features alone an image is hardly told."""
    calls, inputs, _ = _traced(model, input_shape)
    for call in calls:
        weight, bias = (f"{call.path}.{name}" for name in ("weight", "bias"))
        one = sum(other.layer is call.layer for other in calls) == 1 and call.seen.dim() == 2 and len(call.seen) == 1
        if not one or type(call.layer) is not nn.Linear or not {weight, bias} <= {*trained}:
            continue
        severed, leaves, whole = _traced(model, input_shape, term, severed=call.path)
        own = next(other.seen for other in severed if other.path == call.path)
        before = _reached(own, leaves)
        if not before & {*trained} and not torch.equal(call.seen, inputs[_IMAGE].flatten(1)):
            continue
        if not before & _reached(whole, leaves) and not {weight, bias} & before:
            yield call.path


def _reached(value: Tensor, leaves: Mapping[str, Tensor]) -> set[str]:
    """The leaves of a graph that a value depends on."""
    if not value.requires_grad:
        return set()
    found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(leaves, found) if gradient is not None}


def _named(model: nn.Module, path: str, *, last: bool) -> Head:
    layer = model.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    prefix = f"{path}." if path else ""
    return Head(layer, f"{prefix}weight", None if layer.bias is None else f"{prefix}bias", last)


def end_at(model: nn.Module, head: Head) -> None:
    """Make a copy of a model end at a layer: it returns the layer's output (B, units), and a zero beside it (B, 1).

    So cross-entropy with "probabilities" `[-delta, sum delta]`, which add up to zero, is `<delta, output>` exactly: the
    softmax cancels. The model still computes what lies behind, which nothing depends on any more.
    """
    whole = model.forward

    def until(images: Tensor) -> Tensor:
        made: list[Tensor] = []
        handle = head.layer.register_forward_hook(lambda layer, inputs, output: made.append(output))  # after all others
        try:
            whole(images)
        finally:
            handle.remove()
        [output] = made
        return torch.cat([output, torch.zeros_like(output[:, :1])], dim=1)

    model.forward = until  # type: ignore[method-assign]


def _trained(observation: Observation, name: str) -> bool:
    """Whether an update came back for a parameter; one that is zero throughout was not trained."""
    return name in observation.update and bool(observation.update[name].any())


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

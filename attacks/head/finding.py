"""Where a model can be cut: its linear layers, and what of it lies before them, found by watching an image pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.base import NotApplicable
from attacks.replayable import replayed
from attacks.updates import lacks
from defenses.stochastic import StochasticLayer


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

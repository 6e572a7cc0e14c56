"""How a layer's parameter gradient follows from its input and its back-propagated delta, layer type by layer type.

N problems of B examples pass through the model as one minibatch of N * B examples, problem by problem. A rule maps the
layer's input and the delta at its output to the gradient of each parameter *per problem*: as a tensor (N, *shape), or,
where it is a sum of outer products, as its factors, so that it need not be formed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional as F


@dataclass(frozen=True)
class Outer:
    """A weight gradient `sum_r left_r right_r^T`. left: (N, R, out); right: (N, R, in)."""

    left: Tensor
    right: Tensor

    def formed(self) -> Tensor:
        """The gradient itself, (N, out, in)."""
        return (self.right.transpose(1, 2) @ self.left).transpose(1, 2)  # this way round, `unfold` needs no copy


Gradients = dict[str, Tensor | Outer]
Rule = Callable[[nn.Module, Tensor, Tensor, int], Gradients]

_rules: dict[type[nn.Module], Rule] = {}


def rule(layer_type: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Decorator: register the rule of a layer type; a second rule for one type is refused."""

    def decorate(function: Rule) -> Rule:
        if layer_type in _rules:
            raise ValueError(f"{layer_type.__name__} already has a rule")
        _rules[layer_type] = function
        return function

    return decorate


def rule_for(layer: nn.Module) -> Rule | None:
    """The rule of exactly this type (a subclass may differ); `leaf` for others without children."""
    return _rules.get(type(layer), None if any(layer.children()) else leaf)


def leaf(layer: nn.Module, inputs: Tensor, delta: Tensor, problems: int) -> Gradients:
    """Any layer without children, e.g. learned positions: torch differentiates it, problem by problem."""
    own = dict(layer.named_parameters(recurse=False))

    def gradient(inputs: Tensor, delta: Tensor) -> dict[str, Tensor]:
        pull_back = vjp(lambda parameters: functional_call(layer, parameters, (inputs,)), own)[1]
        return pull_back(delta)[0]

    return dict(vmap(gradient)(inputs.unflatten(0, (problems, -1)), delta.unflatten(0, (problems, -1))))


def per_problem(value: Tensor, problems: int) -> Tensor:
    """(N * B, ..., D) as the rows (N, B * ..., D) of each problem."""
    return value.reshape(problems, -1, value.shape[-1])


@rule(nn.Linear)
def linear(layer: nn.Module, inputs: Tensor, delta: Tensor, problems: int) -> Gradients:
    """inputs (N * B, ..., in), delta (N * B, ..., out)."""
    left, right = per_problem(delta, problems), per_problem(inputs, problems)
    return {"weight": Outer(left, right), "bias": left.sum(1)}


@rule(nn.Conv2d)
def conv2d(layer: nn.Module, inputs: Tensor, delta: Tensor, problems: int) -> Gradients:
    """inputs (N * B, C, H, W), delta (N * B, out, H', W'): a linear layer over the unfolded patches."""
    assert isinstance(layer, nn.Conv2d)
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise Unfit("a convolution with groups, or padding other than zeros, has no rule")
    patches = F.unfold(
        inputs, kernel_size=layer.kernel_size, dilation=layer.dilation, padding=layer.padding, stride=layer.stride
    )
    left = per_problem(delta.flatten(2).transpose(1, 2), problems)
    return {"weight": Outer(left, per_problem(patches.transpose(1, 2), problems)), "bias": left.sum(1)}


@rule(nn.LayerNorm)
def layer_norm(layer: nn.Module, inputs: Tensor, delta: Tensor, problems: int) -> Gradients:
    """inputs and delta (N * B, ..., *normalized_shape)."""
    assert isinstance(layer, nn.LayerNorm)
    normalised = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    shape = (problems, -1, *layer.normalized_shape)
    return {"weight": (delta * normalised).reshape(shape).sum(1), "bias": delta.reshape(shape).sum(1)}


@rule(nn.GroupNorm)
def group_norm(layer: nn.Module, inputs: Tensor, delta: Tensor, problems: int) -> Gradients:
    """inputs and delta (N * B, C, ...)."""
    assert isinstance(layer, nn.GroupNorm)
    normalised = F.group_norm(inputs, layer.num_groups, eps=layer.eps)

    def summed(value: Tensor) -> Tensor:
        return value.reshape(problems, -1, layer.num_channels, value[0, 0].numel()).sum((1, 3))

    return {"weight": summed(delta * normalised), "bias": summed(delta)}


class Unfit(Exception):
    """Ghost matching cannot evaluate this model; the message says which part of it."""

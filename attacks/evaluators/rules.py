"""How a layer's parameter gradient follows from its input and its back-propagated delta, layer type by layer type.

N problems of B examples pass through the model as one minibatch of N * B examples, problem by problem. A rule maps the
layer's input and the delta at its output to the gradient of each parameter *per problem*: as a tensor (N, *shape), or,
where it is a sum of outer products, as its factors, so that it need not be formed.

Where the examples of a minibatch meet inside a layer, its rule also says how to pass each problem through it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional as F
from torch.nn import grad as nn_grad


@dataclass(frozen=True)
class Outer:
    """A weight gradient `sum_r left_r right_r^T`. left: (N, R, out); right: (N, R, in)."""

    left: Tensor
    right: Tensor

    def formed(self) -> Tensor:
        """The gradient itself, (N, out, in)."""
        return (self.right.transpose(1, 2) @ self.left).transpose(1, 2)  # this way round, `unfold` needs no copy


Gradients = dict[str, Tensor | Outer]
Differentiate = Callable[[nn.Module, Tensor, Tensor, int], Gradients]
"""From a layer, its input, the delta at its output and N to the gradients of its parameters."""

Apart = Callable[[nn.Module, Tensor, int], tuple[Tensor, Tensor]]
"""From a layer, its input and N to what `Differentiate` is given as the input, and the output of each problem alone."""


@dataclass(frozen=True)
class Rule:
    """How ghost matching treats a layer type; `apart` replaces the forward of one in which examples meet."""

    gradients: Differentiate
    apart: Apart | None = None


_rules: dict[type[nn.Module], Rule] = {}


def rule(layer_type: type[nn.Module], *, apart: Apart | None = None) -> Callable[[Differentiate], Differentiate]:
    """Decorator: register the rule of a layer type; a second rule for one type is refused."""

    def decorate(function: Differentiate) -> Differentiate:
        if layer_type in _rules:
            raise ValueError(f"{layer_type.__name__} already has a rule")
        _rules[layer_type] = Rule(function, apart)
        return function

    return decorate


def rule_for(layer: nn.Module) -> Rule | None:
    """The rule of exactly this type (a subclass may differ); `leaf` for others without children."""
    return _rules.get(type(layer), None if any(layer.children()) else Rule(leaf))


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


def per_channel(value: Tensor, problems: int) -> Tensor:
    """(N * B, C, ...) summed over the examples of each problem and their positions, (N, C)."""
    return value.reshape(problems, -1, value.shape[1], value[0, 0].numel()).sum((1, 3))


@rule(nn.Linear)
def linear(layer: nn.Module, inputs: Tensor, delta: Tensor, problems: int) -> Gradients:
    """inputs (N * B, ..., in), delta (N * B, ..., out)."""
    left, right = per_problem(delta, problems), per_problem(inputs, problems)
    return {"weight": Outer(left, right), "bias": left.sum(1)}


@rule(nn.Conv2d)
def conv2d(layer: nn.Module, inputs: Tensor, delta: Tensor, problems: int) -> Gradients:
    """inputs (N * B, C, H, W), delta (N * B, out, H', W'): a linear layer over the unfolded patches.

    Unless the patches are more to hold than the gradient, which one convolution with a group for each problem yields.
    """
    assert isinstance(layer, nn.Conv2d)
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise Unfit("a convolution with groups, or padding other than zeros, has no rule")
    positions = delta[0, 0].numel() * (len(delta) // problems)
    if positions * sum(layer.weight.flatten(1).shape) >= layer.weight.numel():
        grouped = nn_grad.conv2d_weight(
            _side_by_side(inputs, problems),
            (problems * layer.out_channels, *layer.weight.shape[1:]),
            _side_by_side(delta, problems),
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=problems,
        )
        return {"weight": grouped.unflatten(0, (problems, -1)), "bias": per_channel(delta, problems)}
    patches = F.unfold(
        inputs, kernel_size=layer.kernel_size, dilation=layer.dilation, padding=layer.padding, stride=layer.stride
    )
    left = per_problem(delta.flatten(2).transpose(1, 2), problems)
    return {"weight": Outer(left, per_problem(patches.transpose(1, 2), problems)), "bias": left.sum(1)}


def _side_by_side(value: Tensor, problems: int) -> Tensor:
    """(N * B, C, ...) as (B, N * C, ...)."""
    return value.unflatten(0, (problems, -1)).transpose(0, 1).flatten(1, 2)


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
    return {"weight": per_channel(delta * normalised, problems), "bias": per_channel(delta, problems)}


def standardised(layer: nn.Module, inputs: Tensor, problems: int) -> tuple[Tensor, Tensor]:
    """Batch norm, inputs (N * B, C, ...): the standardised input, which its weight scales, and the output.

    As the clients did: by the mean and the biased variance of each problem's own B examples and their positions, or, in
    eval mode, by the running ones. Needed without parameters too: the problems would meet in it all the same.
    """
    assert isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))
    channels = (-1, *[1] * (inputs.dim() - 2))
    if layer.training or layer.running_mean is None or layer.running_var is None:
        own = inputs.unflatten(0, (problems, -1))
        over = (1, *range(3, own.dim()))
        if own[0, :, 0].numel() == 1:
            raise Unfit("batch norm over a single value has no variance")
        centred = own - own.mean(over, keepdim=True)
        variance = centred.square().mean(over, keepdim=True)
        normalised = (centred * (variance + layer.eps).rsqrt()).flatten(0, 1)
    else:
        scale = (layer.running_var + layer.eps).rsqrt()
        normalised = (inputs - layer.running_mean.view(channels)) * scale.view(channels)
    output = normalised if layer.weight is None else normalised * layer.weight.view(channels)
    return normalised, output if layer.bias is None else output + layer.bias.view(channels)


@rule(nn.BatchNorm1d, apart=standardised)
@rule(nn.BatchNorm2d, apart=standardised)
def batch_norm(layer: nn.Module, normalised: Tensor, delta: Tensor, problems: int) -> Gradients:
    """normalised, from `standardised`, and delta (N * B, C, ...)."""
    return {"weight": per_channel(delta * normalised, problems), "bias": per_channel(delta, problems)}


@rule(nn.Embedding)
def embedding(layer: nn.Module, indices: Tensor, delta: Tensor, problems: int) -> Gradients:
    """indices (N * B, ...), delta (N * B, ..., D): a row of the table gathers the deltas of its lookups."""
    assert isinstance(layer, nn.Embedding)
    if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
        raise Unfit("an embedding with max_norm, scale_grad_by_freq or sparse gradients has no rule")
    if layer.padding_idx is not None:
        delta = delta.masked_fill((indices == layer.padding_idx)[..., None], 0)
    size, width = layer.num_embeddings, layer.embedding_dim
    first_rows = torch.arange(0, problems * size, size, device=indices.device)
    rows = (indices.reshape(problems, -1) + first_rows[:, None]).flatten()
    tables = delta.new_zeros(problems * size, width).index_add(0, rows, delta.reshape(-1, width))
    return {"weight": tables.unflatten(0, (problems, size))}


class Unfit(Exception):
    """Ghost matching cannot evaluate this model; the message says which part of it."""

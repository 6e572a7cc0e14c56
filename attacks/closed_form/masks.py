"""Dropout masks, read off the update of one image.

A linear layer that sees one vector h per example has the gradient `dL/dW = delta h^T` at batch 1: column j is
`h_j delta`. Where h is the output of a dropout layer, the column of a dropped unit is exactly zero, and, unless delta
is zero altogether, that of any other unit is not. Nothing but the pattern of zeros is used, so clipping changes
nothing, and a float32 weight delta has the same zeros: a weight that got no gradient is returned as it was sent.

What it cannot know:

- A unit that is zero before dropout (a dead ReLU) reads as dropped. To the gradient that is the same.
- Tokens that share a weight, and convolutions, sum over many vectors: their masks leave no zeros and are unread.
- Noise fills the zeros in: where it is known of, nothing is read. Pruning and lost digits add more. Of n units dropped
  at rate p, k zeros are believed unless the Chernoff bound calls them a chance below one in a million, `n KL(k/n, p) >
  ln 1e6`. Too many are believed where the units can be zero by themselves. A narrow layer whose noise is not known of
  may so read as one that dropped nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable
from attacks.observation import Observation
from attacks.sites import noise_inputs, noised
from attacks.twin import client_round
from attacks.updates import lacks, local_steps
from defenses.client.site import Site, joined
from defenses.stochastic import AlphaDropout, Dropout, StochasticLayer, set_stochastic, stochastic_layers

_SURPRISE = math.log(1e6)


@dataclass(frozen=True)
class Masks:
    """What the update says about each stochastic layer that drew.

    Args:
        read: the mask (1, ...) by module path: 1 where a unit passed, 0 where it is zero.
        unread: why not, by module path.
        readers: for each mask read off a linear layer behind it, the weight in whose update it stands.
        certain: those read of which nothing but dropout can have made a unit zero.
    """

    read: Mapping[str, Tensor]
    unread: Mapping[str, str]
    readers: Mapping[str, str]
    certain: frozenset[str]


def read_masks(model: nn.Module, observation: Observation) -> Masks:
    """The masks of one image and one local step; of a batch those that the sites themselves can tell (`Site.read`).

    Args:
        model: an `attacker_copy`, in the client's mode, with the observed weights. A dropout layer of it whose rate is
            not told (`Dropout.told`) is one of any rate: that of its zeros.

    Raises:
        NotApplicable: a batch, or several local steps: their masks lie over each other.
    """
    layers, batch = stochastic_layers(model), observation.batch_size or 1
    drawing = _drawing(model, observation.input_shape, batch)
    if not drawing:
        return Masks({}, {}, {}, frozenset())
    telling = {path for path in drawing if type(layers[path]).read is not Site.read}
    if local_steps(observation) != 1 or (batch != 1 and not telling):
        raise NotApplicable("masks are read off the update of one image in one step, not of a batch")
    quiet = watch(model, layers, observation.input_shape, draw=False)
    read: dict[str, Tensor] = {}
    unread: dict[str, str] = {}
    readers: dict[str, str] = {}
    certain: set[str] = set()
    covered = noised(client_round(observation, model), batch, observation.input_shape)
    bare = {n: v for n, v in observation.update.items() if telling and n not in covered}
    gradient = {n: v.masked_fill(untouched(observation, n), 0) for n, v in bare.items()}
    for path in (path for path in drawing if path in telling):
        noise = layers[path].read(gradient, path, drawing[path])
        if noise is None:
            unread[path] = f"the update does not say what {path} drew"
        elif _unlikely(noise, layers[path]):
            unread[path] = f"{int((noise == 0).sum())} of {noise.numel()} entries of {path} read as dropped"
        else:
            read[path] = joined([noise], layers[path].axes)
            certain.add(path)
    others = {path: shape for path, shape in drawing.items() if path not in telling}
    for path, found in _fed_by(model, others, observation.input_shape).items():
        layer = layers[path]
        if batch != 1:
            unread[path] = f"the masks of {batch} images in {path} lie over each other"
        elif isinstance(found, Unread):
            unread[path] = found.reason
        elif not isinstance(layer, Dropout) or isinstance(layer, AlphaDropout):
            unread[path] = f"{path} is no dropout: its noise leaves no zeros"
        elif found not in observation.update:
            unread[path] = lacks(found)
        elif found in covered:
            unread[path] = f"the defense adds noise to {found}: no zero is left"
        else:
            mask = _passed(~zero_columns(observation, found), layer, drawing[path])
            may_be_zero = bool((quiet[path][0][0] == 0).any())
            dropped = mask.numel() - int(mask.sum())
            if dropped == mask.numel():
                unread[path] = f"the update's {found} is zero"
            elif _incredible(dropped, mask.numel(), float(layer.rate(mask.double())), may_be_zero=may_be_zero):
                unread[path] = f"{dropped} of {mask.numel()} units of {path} read as dropped, at rate {layer.p}"
            else:
                read[path], readers[path] = mask.to(observation.update[found]), found
                if not may_be_zero:
                    certain.add(path)
    return Masks(read, unread, readers, frozenset(certain))


def zero_columns(observation: Observation, weight: str) -> Tensor:
    """Which columns (inputs,) of a linear layer's update are zero, apart from weight decay: boolean."""
    return untouched(observation, weight).all(dim=0)


def untouched(observation: Observation, weight: str) -> Tensor:
    """Which entries of a parameter's update are zero, apart from weight decay: boolean, of its shape.

    A weight that only decayed is where the rounding of its own arithmetic puts it, within two units in the last place.
    """
    update, local = observation.update[weight], observation.local
    if observation.kind == "gradient" or local is None:
        return update == 0
    sent = {weight: observation.state[weight].double()}
    none = {weight: torch.zeros_like(sent[weight])}
    decayed = local.change(none, local.init(sent), sent, local.rates(sent, 0))[0][weight]
    if not decayed.any():
        return update == 0
    rounding = 2 * torch.finfo(getattr(torch, observation.precision)).eps * sent[weight].abs()
    return (update.double() - decayed).abs() <= rounding


def watch(
    model: nn.Module, modules: Mapping[str, nn.Module], input_shape: tuple[int, int, int], *, draw: bool
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """The (input, output) of each call of some modules while two random images pass, with or without noise drawn."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def hook(path: str) -> Any:
        return lambda module, inputs, output: calls[path].append((inputs[0], output))

    handles = [module.register_forward_hook(hook(path)) for path, module in modules.items()]
    like = next(model.parameters())
    probe = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0)).to(like)
    set_stochastic(model, draw)
    try:
        with torch.no_grad(), torch.random.fork_rng([like.device] if like.is_cuda else []):
            torch.manual_seed(0)
            model(probe)
    finally:
        set_stochastic(model, False)
        for handle in handles:
            handle.remove()
    return calls


@dataclass(frozen=True)
class Unread:
    """Why a mask cannot be read."""

    reason: str


def _drawing(model: nn.Module, input_shape: tuple[int, int, int], batch: int) -> Mapping[str, torch.Size]:
    """The stochastic layers that draw and their input shapes (batch, ...); none in evaluation mode."""
    found = noise_inputs(model, 2, input_shape) if model.training else {}  # two, because batch norm cannot do with one
    return {path: torch.Size((batch, *shape[1:])) for path, shape in found.items()}


def _unlikely(noise: Tensor, layer: StochasticLayer) -> bool:
    """Whether a layer with a rate would hardly have drawn what was read of it."""
    said = (noise == 0) | (noise == 1)
    rate = getattr(layer, "p", None)
    if rate is None or not said.any():
        return False
    return _incredible(int((noise == 0).sum()), int(said.sum()), rate, may_be_zero=False)


def _fed_by(
    model: nn.Module, drawing: Mapping[str, torch.Size], input_shape: tuple[int, int, int]
) -> dict[str, str | Unread]:
    """For each layer that draws, the weight of a linear layer that is given its output, one vector per example."""
    layers = {path: layer for path, layer in stochastic_layers(model).items() if path in drawing}
    linears = {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    calls = watch(model, {**layers, **linears}, input_shape, draw=True)
    holders: dict[int, int] = defaultdict(int)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders[id(parameter)] += 1

    def reader(path: str) -> str | Unread:
        [(_, output)] = calls[path]
        for linear_path, linear in linears.items():
            given = [inputs for inputs, _ in calls[linear_path]]
            if len(given) != 1 or holders[id(linear.weight)] > 1 or given[0].numel() != 2 * linear.in_features:
                continue
            if torch.equal(given[0].flatten(), output.flatten()):
                return f"{linear_path}.weight" if linear_path else "weight"
        return Unread(f"{path} does not feed a linear layer one vector an image")

    return {path: reader(path) for path in layers}


def _passed(columns: Tensor, layer: Dropout, shape: torch.Size) -> Tensor:
    """Which columns (inputs,) are not zero, as the layer's mask (1, ...): a channel passed if any part of it did."""
    units = columns.view(1, *shape[1:])
    mask = layer.sample(torch.zeros(units.shape), torch.Generator())
    shared = [dim for dim in range(units.dim()) if mask.shape[dim] < units.shape[dim]]
    return units.any(dim=shared, keepdim=True) if shared else units


def _incredible(dropped: int, units: int, rate: float, *, may_be_zero: bool) -> bool:
    """Whether so many units read as zero that it is no chance, or so few."""
    share = dropped / units
    if share > rate and may_be_zero:
        return False
    divergence = sum(a * math.log(a / b) for a, b in ((share, rate), (1 - share, 1 - rate)) if a > 0)
    return units * divergence > _SURPRISE

"""Which random sites draw in a client's round, and what each acts on: found by one pass of blank images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.base import NotApplicable
from defenses.client.round import ClientRound, replay
from defenses.client.site import Site, Source
from defenses.stochastic import StochasticLayer, drawing, set_stochastic, stochastic_layers


def noise_inputs(model: nn.Module, images: int, input_shape: tuple[int, int, int]) -> dict[str, torch.Size]:
    """Which stochastic layers draw when a batch of `images` passes in train mode, and the input shape (B, ...) of each.

    Raises:
        NotApplicable: a stochastic layer that draws more than once; one noise cannot stand for several draws.
    """
    shapes: dict[str, list[torch.Size]] = {path: [] for path in stochastic_layers(model)}
    drew: set[str] = set()

    def note(path: str, layer: StochasticLayer, x: Tensor) -> Tensor:
        drew.add(path)
        return layer.sample(x)

    def watch(path: str) -> Callable[..., None]:
        return lambda layer, inputs: shapes[path].append(inputs[0].shape)

    layers = stochastic_layers(model)
    handles = [layer.register_forward_pre_hook(watch(path)) for path, layer in layers.items()]
    set_stochastic(model, True)
    like = next(model.parameters())
    with torch.no_grad(), torch.random.fork_rng(devices=[]), drawing(model, note):
        own = {name: value.clone() for name, value in model.named_buffers()}  # a forward pass may count in them
        functional_call(model, own, (torch.zeros(images, *input_shape, dtype=like.dtype, device=like.device),))
    set_stochastic(model, False)
    for handle in handles:
        handle.remove()
    for path in drew:
        if len(shapes[path]) > 1:
            raise NotApplicable(f"the stochastic layer {path} is called {len(shapes[path])} times in one forward pass")
    return {path: shapes[path][0] for path in layers if path in drew}


def noise_sites(
    round: ClientRound, images: int, input_shape: tuple[int, int, int]
) -> dict[str, tuple[Site, torch.Size]]:
    """The structural sites of a known defense that draw in a round, and the shape of what each acts on in one step."""
    if not round.defense.draws:
        return {}
    return {name: found for name, found in _traced(round, images, input_shape).found.items() if ":" in name}


def noised(round: ClientRound, images: int, input_shape: tuple[int, int, int]) -> set[str]:
    """The parameters to whose updates a known defense adds noise, so that no zero is left in them."""
    if not (round.defense.changes_update or round.defense.replaces_gradient):
        return set()
    return {name.split(":")[1] for name in _traced(round, images, input_shape).added}


def _traced(round: ClientRound, images: int, input_shape: tuple[int, int, int]) -> _Tracer:
    """A round on blank images, in which nothing is drawn."""
    like = next(round.model.parameters())
    tracer = _Tracer()
    state = {name: value.detach() for name, value in round.model.named_parameters()}
    blank = torch.zeros(images, *input_shape, dtype=like.dtype, device=like.device)
    labels = torch.zeros(images, dtype=torch.int64, device=like.device)
    replay(round, state, blank, labels, source=tracer)
    return tracer


class _Tracer(Source):
    """Leaves everything at rest, and notes which structural sites were asked for, and where noise is added."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[Site, torch.Size]] = {}
        self.added: set[str] = set()

    def draw(self, name: str, site: Site, x: Tensor) -> Tensor | None:
        resting = site.rest(x)
        if site.structural:
            self.found.setdefault(name, (site, x.shape))
        elif resting is not None and not resting.any():
            self.added.add(name)
        return resting

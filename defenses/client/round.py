"""The client's round: one value that says all that a client does with the state it received, and its two interpreters.

    play(round, state, images, labels, draw)       the honest client: any model that trains, its own backward pass
    replay(round, state, images, labels, drawn)    the same as a function, differentiable in images, labels and noise

Both run the same body of local steps, defenses and optimizer; only the computation of one step's gradient is theirs
(`defenses.client.compute`). So `replay` of what `play` drew equals `play`, for every local training, every defense and
every composition of defenses: what an attacker has to know of a client is which `ClientRound` it played.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from defenses.base import Defense, Memory, Turn
from defenses.client.compute import Backward, Computation, Functional, Inputs
from defenses.client.own import Own
from defenses.client.site import Fixed, Generators, Given, Sampling, Site, Source
from defenses.client.training import LocalTraining
from defenses.composition import Composition
from defenses.stochastic.layer import stochastic_layers

Tensors = Mapping[str, Tensor]

ORDER = "order"
"""The name among the draws of the order in which epochs take the examples, (epochs * examples,) int64."""

Moved = tuple[Tensors, Any, Tensor]
"""After a local step: the weights, the optimizer's state, and the loss."""

RunStep = Callable[[Callable[..., Moved], Any], Moved]
"""Runs a local step: a function of its inputs (nested tensors and numbers), and of nothing else that is not the same in
every step of the round and whenever it is replayed. So one program can serve them all."""

HIDDEN = "hidden"
"""What a user's own layers draw from torch's global generator is seeded by this name; it cannot be replayed."""


@dataclass(frozen=True, kw_only=True)
class ClientRound:
    """What a client does in a round.

    Args:
        model: the computation, with the defense's `on_model` applied and in the mode that the client trains in.
        local: its local training.
        defense: its defenses, in order.
        share: what is sent, the gradient of the only step or the change of the weights.
        batch_size: examples of a step, where they do not follow from the number of steps.
        classes: how many the model tells apart; only a defense that mixes labels has to know.
    """

    model: nn.Module
    local: LocalTraining = field(default_factory=LocalTraining)
    defense: Defense = field(default_factory=lambda: Composition([]))
    share: Literal["gradient", "delta"] = "gradient"
    batch_size: int | None = None
    classes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Played:
    """What came of a round.

    Args:
        update: what is sent, by name of the trained parameters.
        buffers: the model's after the round; empty where it was replayed.
        drawn: what was drawn, one tensor a site (see `defenses.client.site`), and the order, if there is one.
        sites: the sites, by name, and the shapes of what they act on in one step.
        loss: the mean of the steps' training losses.
        memory: what the defenses remember for the client's next round.
        trained: where a defense changes the batch, each of the images as it was trained on, (N, V, C, H, W); of a
            replayed round None.
        views: likewise as far as the defense shows them (`Defense.views`); None where it does not.
        entered: of a replayed round, what entered the layers that were to be watched, in each step.
    """

    update: dict[str, Tensor]
    buffers: dict[str, Tensor]
    drawn: dict[str, Tensor]
    sites: dict[str, Site]
    acts_on: dict[str, torch.Size]
    loss: Tensor
    memory: Memory
    trained: Tensor | None = None
    views: Tensor | None = None
    entered: list[Inputs] = field(default_factory=list)


def play(
    round: ClientRound,
    state: Tensors,
    images: Tensor,
    labels: Tensor,
    draw: Generators,
    memory: Memory | None = None,
    *,
    additive: bool = True,
) -> Played:
    """Play a round honestly. The model's weights and buffers change.

    Args:
        state: the state that the server sent.
        images: (N, C, H, W), the distinct examples: of each step one after the other, or, with epochs, all.
        labels: (N,) class indices.
        draw: a generator of the CPU for each site and step.
        memory: of the client's round before.
        additive: whether additive noise is among what is returned as drawn.
    """
    model, local = round.model, round.local
    model.load_state_dict(dict(state))
    for layer in stochastic_layers(model).values():
        layer.recall(memory or {})
    source = Sampling(draw, additive=additive)
    start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    order = None
    if local.epochs is not None:
        order = torch.cat([torch.randperm(len(images), generator=draw(ORDER, e)) for e in range(local.epochs)])
        order = order.to(images.device)
    computation = Backward(model, source, label_smoothing=local.label_smoothing, term=round.defense.loss_term)
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        hidden = draw(HIDDEN, 0)
        torch.manual_seed(hidden.initial_seed())
        torch.default_generator.set_state(hidden.get_state())
        batches: list[Batch] = []
        update, loss, memory = _body(round, start, computation, source, images, labels, order, memory, batches=batches)
    buffers = {name: value.detach().clone() for name, value in model.named_buffers()}
    drawn = source.drawn if order is None else {**source.drawn, ORDER: order}
    return Played(
        update=update,
        buffers=buffers,
        drawn=drawn,
        sites=source.sites,
        acts_on=source.acts_on,
        loss=loss.detach(),
        memory=memory,
        trained=_by_image(batches, len(images), local.epochs, lambda batch: batch.trained),
        views=_by_image(batches, len(images), local.epochs, lambda batch: batch.views) if round.defense.shows else None,
    )


def replay(
    round: ClientRound,
    state: Tensors,
    images: Tensor,
    labels: Tensor,
    drawn: Tensors | None = None,
    memory: Memory | None = None,
    *,
    surrogate: bool = False,
    source: Source | None = None,
    watched: Collection[str] = (),
    run_step: RunStep | None = None,
) -> Played:
    """The same round as a pure function of tensors.

    Args:
        state: the state that the server sent; the parameters in it are trained, others stay as the model has them.
        labels: (N,) class indices, or (N, K) probabilities.
        drawn: by site; a site of which nothing is given is at rest.
        surrogate: whether a defense, or the optimizer of an only step, is replaced by the function that it states to be
            easier to differentiate.
        source: of the noise, in place of `drawn`.
        watched: layers, by module path, whose inputs are asked for; none are seen where a defense takes the examples'
            gradients one by one.
        run_step: how the steps of a round of several are run, where no defense replaces their gradients and no layer is
            watched; None: one after the other, as they are.

    Raises:
        ValueError: a name that the model does not have, or images that do not fit the local training.
    """
    model, local = round.model, round.local
    drawn = dict(drawn or {})
    order = drawn.pop(ORDER, None)
    names, own = dict(model.named_parameters()), dict(model.named_buffers())
    _refuse_unknown({name for name in drawn if ":" not in name} - stochastic_layers(model).keys())
    start = {name: state[name] for name in names if name in state}
    buffers = {name: value for name, value in state.items() if name in own}
    source = source or Given(drawn, local.sizes(len(images), round.batch_size))
    computation = Functional(
        model,
        source,
        label_smoothing=local.label_smoothing,
        term=round.defense.loss_term,
        buffers=buffers,
        watched=watched,
    )
    update, loss, memory = _body(
        round,
        start,
        computation,
        source,
        images,
        labels,
        order,
        memory,
        buffers=buffers,
        surrogate=surrogate,
        run_step=None if watched else run_step,
    )
    return Played(
        update=update,
        buffers={},
        drawn=drawn,
        sites={},
        acts_on={},
        loss=loss,
        memory=memory,
        entered=computation.entered,
    )


def _body(
    round: ClientRound,
    start: Tensors,
    computation: Computation,
    source: Source,
    images: Tensor,
    labels: Tensor,
    order: Tensor | None,
    memory: Memory | None,
    *,
    buffers: Tensors | None = None,
    surrogate: bool = False,
    batches: list[Batch] | None = None,
    run_step: RunStep | None = None,
) -> tuple[dict[str, Tensor], Tensor, Memory]:
    """All that happens between a batch and what is sent, for both interpreters."""
    local, defense = round.local, round.defense
    resting = Functional(
        round.model, source, label_smoothing=local.label_smoothing, term=defense.loss_term, buffers=buffers
    )
    own = Own(
        weights=start,
        images=images,
        rate=local.learning_rate if round.share == "gradient" else None,
        labels=labels,
        loss=partial(resting.loss_at, images=images, labels=labels),
        loss_of=resting.loss_at,
        entering=partial(resting.entering, start),
    )
    turn = Turn(source.draw, dict(memory or {}), classes=round.classes, own=own)
    state: Any = local.init(start)
    weights: Tensors = dict(start)
    gradient: Tensors = {}
    losses = list[Tensor]()
    pieces = local.batches(len(images), round.batch_size, order)
    soft = surrogate and len(pieces) == 1

    def moved(found: Tensors, weights: Tensors, state: Any, rates: Sequence[float]) -> tuple[Tensors, Tensors, Any]:
        """What the optimizer is given of a gradient; the weights and the optimizer's state after it."""
        gradient = local.adjusted(found, weights, start)
        change, state = local.change(gradient, state, weights, rates, surrogate=soft)
        return gradient, {name: value + change[name] for name, value in weights.items()}, state

    def alone(
        weights: Tensors, state: Any, batch: Tensor, targets: Tensor, noise: Tensors, rates: Sequence[float]
    ) -> Moved:
        """A step as a function of what changes from one to the next."""
        found, loss = computation.gradient(weights, batch, targets, noise)
        _, weights, state = moved(found, weights, state, rates)
        return weights, state, loss

    for step, chosen in enumerate(pieces):
        source.step = step
        same = Fixed()
        batch, targets = defense.on_batch(
            images[chosen], labels[chosen], turn=replace(turn, source=same.noted(source))
        )
        if batches is not None and defense.changes_batch:
            views = defense.views(images[chosen], labels[chosen], turn=replace(turn, source=same.draw))
            batches.append(Batch(chosen, batch.detach(), views.detach()))
        rates = local.rates(start, step)
        if run_step is not None and len(pieces) > 1 and not defense.replaces_gradient:
            given = (weights, state, batch, targets, computation.noise(batch), rates)
            weights, state, loss = run_step(alone, given)
        else:
            if defense.replaces_gradient:
                found, loss = defense.gradient(partial(computation.per_example, weights, batch, targets), turn=turn)
            else:
                found, loss = computation.gradient(weights, batch, targets, computation.noise(batch))
            gradient, weights, state = moved(found, weights, state, rates)
        losses.append(loss)
    sent = dict(gradient) if round.share == "gradient" else {name: weights[name] - start[name] for name in start}
    sent = (defense.surrogate if surrogate else defense.on_update)(sent, turn=turn)
    return sent, torch.stack(losses).mean(), turn.memory


@dataclass(frozen=True)
class Batch:
    """What a defense made of the images at some places, and as what it shows them."""

    places: slice | Tensor
    trained: Tensor
    views: Tensor


def _by_image(
    batches: Sequence[Batch], count: int, epochs: int | None, of: Callable[[Batch], Tensor]
) -> Tensor | None:
    """What was made of each image, (N, V, C, H, W): in one step of it, or in each epoch; None where nothing was."""
    if not batches:
        return None
    passes = epochs or 1
    every = torch.arange(count, device=of(batches[0]).device)
    found: list[list[Tensor]] = [[] for _ in range(count)]
    for batch in batches:
        places, made = every[batch.places].tolist(), of(batch)
        for place, variants in zip(places, made.view(-1, len(places), *made.shape[1:]).transpose(0, 1), strict=True):
            found[place].append(variants)
    assert all(len(variants) == passes for variants in found), "each image is in one step of an epoch"
    return torch.stack([torch.cat(variants) for variants in found])


def _refuse_unknown(names: set[str]) -> None:
    if names:
        raise ValueError(f"the model has no {', '.join(sorted(names))}")

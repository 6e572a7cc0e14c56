"""A client's round on one machine, without Flower: what it plays, and what it sends for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from defenses import Defense
from defenses.base import Memory
from defenses.client.round import ClientRound, Played, play
from defenses.client.site import Generators
from defenses.client.training import LocalTraining
from defenses.stochastic import begin
from fedsim.models import entries
from fedsim.random import generator_for


@dataclass(frozen=True)
class LocalResult:
    """What a client's round gives.

    Args:
        arrays: what is sent, by the entries of the model's state: the gradient or the new weights of what was trained
            (tied weights under each of their names), frozen parameters as they came, and the buffers.
        played: the round itself.
    """

    arrays: dict[str, Tensor]
    played: Played


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    local: Mapping[str, Any],
    defense: Defense,
    seed: int,
    client: int,
    round: int,
    classes: int | None = None,
    memory: Memory | None = None,
) -> LocalResult:
    """Play one round on `model`, which holds the weights that the server sent.

    Args:
        images: (N, C, H, W) in normalised units: of each step one after the other, or, with epochs, all of a client.
        labels: (N,) class indices.
        local: the scenario's `federation.local` block.
        defense: the client's defense, or composition of defenses; the model is as its `on_model` leaves it.
        classes: how many the model tells apart, for a defense that mixes labels.
        memory: what the defense remembers of the client's round before.

    All that is drawn follows from (seed, client, round) and the name of what draws it, so that it can be repeated, and
    does not depend on which process runs it.
    """
    begin(model, round).train(local["mode"] == "train")
    sent = {name: value.detach().clone() for name, value in model.state_dict().items()}
    played = play(
        ClientRound(
            model=model,
            local=training(local),
            defense=defense,
            share="gradient" if local["share"] == "gradient" else "delta",
            batch_size=local["batch_size"],
            classes=classes,
        ),
        sent,
        images,
        labels,
        generators(seed, client=client, round=round),
        memory,
        additive=False,  # as large as the model, and of no use to any attack
    )
    names = entries.trained(model)
    state = model.state_dict()
    changed = played.update
    if local["share"] == "weights":
        changed = {name: sent[name] + value for name, value in changed.items()}
    arrays = {
        entry: changed[names[entry]] if entry in names else value.detach().clone() for entry, value in state.items()
    }
    return LocalResult(arrays, played)


def training(local: Mapping[str, Any]) -> LocalTraining:
    """The local training that a scenario's `federation.local` block describes."""
    return LocalTraining.from_dict({key: local[key] for key in LocalTraining.names() if key in local})


def generators(seed: int, *, client: int, round: int) -> Generators:
    """A generator for each random site and step of a client's round."""
    return lambda site, step: generator_for(seed, "noise", client=client, round=round, site=site, step=step)

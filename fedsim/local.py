"""A client's round on one machine, without Flower: what it plays, and what it sends for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attacks import Observation
from defenses import Defense
from defenses.base import Memory
from defenses.client.round import ClientRound, Played, play
from defenses.client.site import Generators
from defenses.client.training import LocalTraining
from defenses.stochastic import begin
from fedsim.data import Dataset
from fedsim.models import entries
from fedsim.random import generator_for

_LATER = (
    "epochs",
    "examples",
    "schedule",
    "optimizer",
    "groups",
    "clip_norm",
    "clip_value",
    "proximal",
    "label_smoothing",
    "trained",
)
"""Keys of `federation.local` that came later than others."""


Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Local:
    """What a client does in a round, as a scenario's `federation.local` says it.

    Args:
        training: what there is to know of its training: see there.
        batch_size: images of a step.
        examples: how many of its examples a client goes through in its epochs; None: all.
        mode: train: dropout active, batch norm on batch statistics.
        share: the gradient of the only step, or the weights after the last one.
        precision: the floating-point type that it computes in and sends.
    """

    training: LocalTraining = field(default_factory=LocalTraining)
    batch_size: int = 1
    examples: int | None = None
    mode: Literal["train", "eval"] = "train"
    share: Literal["gradient", "weights"] = "gradient"
    precision: Literal["float32", "float64"] = "float32"

    @property
    def kind(self) -> Literal["gradient", "delta"]:
        """What the server sees of a client: of weights, their difference to those that it sent."""
        return "gradient" if self.share == "gradient" else "delta"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.precision == "float64" else torch.float32

    def to_dict(self) -> dict[str, Any]:
        """The block, JSON-able. Keys that came later say nothing where they are as by default, so that the keys of
        older runs, and their settings, stay what they were."""
        plain, default = self._block(), Local()._block()
        return {key: value for key, value in plain.items() if key not in _LATER or value != default[key]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Local:
        """What is left out is as by default."""
        of_training = {key: value for key, value in plain.items() if key in LocalTraining.names()}
        own = {key: value for key, value in plain.items() if key not in of_training}
        return cls(training=LocalTraining.from_dict(of_training), **own)

    def _block(self) -> dict[str, Any]:
        own = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "training"}
        return {**own, **self.training.to_dict()}


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


def observed(dataset: Dataset, local: Local, *, state: Tensors, update: Tensors) -> Observation:
    """What a server sees of a client's round, and all that is the same for every client of a federation.

    Who the client was, what it had and what it drew are added by `dataclasses.replace`.
    """
    return Observation(
        state=state,
        update=update,
        kind=local.kind,
        precision=local.precision,
        input_shape=dataset.input_shape,
        classes=len(dataset.classes),
        mean=dataset.mean,
        std=dataset.std,
        batch_size=local.batch_size,
        local=local.training,
    )


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    local: Local,
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
        defense: the client's defense, or composition of defenses; the model is as its `on_model` leaves it.
        classes: how many the model tells apart, for a defense that mixes labels.
        memory: what the defense remembers of the client's round before.

    All that is drawn follows from (seed, client, round) and the name of what draws it, so that it can be repeated, and
    does not depend on which process runs it.
    """
    begin(model, round).train(local.mode == "train")
    sent = {name: value.detach().clone() for name, value in model.state_dict().items()}
    played = play(
        ClientRound(
            model=model,
            local=local.training,
            defense=defense,
            share=local.kind,
            batch_size=local.batch_size,
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
    if local.share == "weights":
        changed = {name: sent[name] + value for name, value in changed.items()}
    arrays = {
        entry: changed[names[entry]] if entry in names else value.detach().clone() for entry, value in state.items()
    }
    return LocalResult(arrays, played)


def generators(seed: int, *, client: int, round: int) -> Generators:
    """A generator for each random site and step of a client's round."""
    return lambda site, step: generator_for(seed, "noise", client=client, round=round, site=site, step=step)

"""What the server applies of a round: each client's reply as weights, and their mean, as the server's defense has them.

What it has *seen* is another matter: it received every reply as it was sent, before any of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from defenses import Composition, Defense
from defenses.base import Turn
from defenses.client.site import Sampling
from fedsim.federation.plan import Plan
from fedsim.models import entries
from fedsim.random import generator_for

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Applied:
    """From what clients sent to the next global state.

    Args:
        share: what clients send of what they train: its gradient, or its new weights.
        learning_rate: the local one, for the weights that one step along a gradient gives.
        trained: the entries of the state that clients train, each with the name of the parameter that it is; every
            other entry of a reply stands for itself.
        frozen: the entries that no client changes; they stay as they were sent.
        defense: of it, what the server does with what it received.
        seed: of what the server draws.
    """

    share: Literal["gradient", "weights"]
    learning_rate: float
    trained: Mapping[str, str]
    frozen: frozenset[str] = frozenset()
    defense: Defense = field(default_factory=lambda: Composition([]))
    seed: int = 0

    @classmethod
    def of(cls, plan: Plan) -> Applied:
        model, local = plan.client_model(), plan.local
        return cls(
            share=local.share,
            learning_rate=local.training.learning_rate,
            trained=entries.trained(model),
            frozen=entries.frozen(model),
            defense=plan.defense(),
            seed=plan.seed,
        )

    def weights(self, sent: Tensors, received: Tensors) -> dict[str, Tensor]:
        """The weights that a reply comes to: they are averaged."""
        if self.share == "weights" and not self.defense.changes_mean:
            return dict(received)
        update = {name: received[entry] for entry, name in self.trained.items()}
        if self.share == "weights":
            update = {name: update[name] - sent[entry] for entry, name in self.trained.items()}
        return {**received, **self._moved(sent, self.defense.on_received(update))}

    def state(self, sent: Tensors, mean: Tensors, examples: Sequence[float], round: int) -> dict[str, Tensor]:
        """The next global state, in the model's own dtypes.

        A weighted mean turns integers to floats and float32 to float64, and rounds what is the same everywhere.

        Args:
            mean: what averaging made of the weights.
            examples: of the clients whose replies were averaged: their weights in the mean.
        """
        if self.defense.changes_mean:
            step = -self.learning_rate if self.share == "gradient" else 1.0
            update = {name: (mean[e].double() - sent[e].double()) / step for e, name in self.trained.items()}
            mean = {**mean, **self._moved(sent, self.defense.on_mean(update, examples, turn=self._turn(round)))}
        return {
            entry: sent[entry] if entry in self.frozen else value.to(sent[entry].dtype)
            for entry, value in mean.items()
        }

    def _moved(self, sent: Tensors, update: Tensors) -> dict[str, Tensor]:
        """The trained weights, moved by an update of the kind that clients send."""
        if self.share == "gradient":
            return {entry: sent[entry] - self.learning_rate * update[name] for entry, name in self.trained.items()}
        return {entry: sent[entry] + update[name] for entry, name in self.trained.items()}

    def _turn(self, round: int) -> Turn:
        """The server's own noise, by its own names: no client draws any of it."""

        def draw(site: str, step: int) -> torch.Generator:
            return generator_for(self.seed, "server noise", round=round, site=site)

        return Turn(Sampling(draw, additive=False).draw)

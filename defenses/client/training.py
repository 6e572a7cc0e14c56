"""What a client's local training is: the optimizer, the batches and their order, and what is added to the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from defenses.client import optimizers
from defenses.client.optimizers import Estimate, Optimizer
from defenses.client.optimizers.sgd import SGD

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """One round of a client.

    Args:
        steps: optimizer steps, each on a fresh batch; with `epochs` it says nothing.
        epochs: passes over the client's own examples, in batches, the last one ragged; None: `steps` fresh batches.
        learning_rate: constant over the round.
        optimizer: its state starts afresh each round.
        clip_norm: bound of each step's gradient in L2 norm, over all parameters; None: none.
        clip_value: bound of each entry of it; None: none.
        proximal: weight mu of FedProx' term `mu / 2 |w - w_0|^2` (Li et al., MLSys 2020).
        label_smoothing: share of each label that is spread over all classes.
        trained: patterns (`head.*`) of the parameters that are trained; empty: all.
    """

    steps: int = 1
    epochs: int | None = None
    learning_rate: float = 0.1
    optimizer: Optimizer = field(default_factory=SGD)
    clip_norm: float | None = None
    clip_value: float | None = None
    proximal: float = 0.0
    label_smoothing: float = 0.0
    trained: tuple[str, ...] = ()

    def batches(self, examples: int, batch_size: int | None, order: Tensor | None) -> Sequence[slice | Tensor]:
        """What each step takes of a client's examples.

        Args:
            batch_size: needed for epochs; fresh batches divide the examples evenly.
            order: (epochs * examples,) places, the epochs one after the other; None: as they lie.

        Raises:
            ValueError: the examples cannot be divided over the steps.
        """
        if self.epochs is None:
            if examples % self.steps:
                raise ValueError(f"{examples} images cannot be split over {self.steps} local steps")
            size = examples // self.steps
            return [slice(step * size, (step + 1) * size) for step in range(self.steps)]
        size = batch_size or examples
        pieces = [slice(start, min(start + size, examples)) for start in range(0, examples, size)]
        if order is None:
            return pieces * self.epochs
        return [order[epoch * examples :][piece] for epoch in range(self.epochs) for piece in pieces]

    def sizes(self, examples: int, batch_size: int | None) -> list[int]:
        """How many examples each step takes."""
        places = torch.arange(examples)
        return [len(places[piece]) for piece in self.batches(examples, batch_size, None)]

    def count(self, examples: int, batch_size: int) -> int:
        """How many optimizer steps a client with so many examples takes."""
        return self.steps if self.epochs is None else self.epochs * -(-examples // batch_size)

    def adjusted(self, gradient: Tensors, weights: Tensors, start: Tensors) -> dict[str, Tensor]:
        """What the optimizer is given in place of a step's gradient: FedProx' term added, then clipped."""
        found = dict(gradient)
        if self.proximal:
            found = {name: g + self.proximal * (weights[name] - start[name]) for name, g in found.items()}
        if self.clip_norm is not None:
            norm = torch.stack([g.double().square().sum() for g in found.values()]).sum().clamp_min(1e-300).sqrt()
            scale = self.clip_norm / norm.clamp(min=self.clip_norm)
            found = {name: g * scale.to(g.dtype) for name, g in found.items()}
        if self.clip_value is not None:
            found = {name: g.clamp(-self.clip_value, self.clip_value) for name, g in found.items()}
        return found

    @property
    def scale_free(self) -> bool:
        """Whether the optimizer is given no more than a multiple of a first step's gradient, of unknown length."""
        return self.clip_norm is not None

    def first_gradient(self, change: Tensors, start: Tensors) -> dict[str, Tensor] | None:
        """The gradient of the loss that the change of a first step reveals (with `clip_norm`: a multiple of it).

        None where it does not: of an optimizer that keeps it to itself, of clipped entries.
        """
        if self.clip_value is not None:
            return None
        return self.optimizer.first_gradient(change, start, self.learning_rate)

    def first_estimate(self, change: Tensors, rounding: Tensors, start: Tensors) -> dict[str, Estimate] | None:
        """The same of a change that was rounded, with a standard deviation for each of its entries."""
        if self.clip_value is not None:
            return None
        return self.optimizer.first_estimate(change, rounding, start, self.learning_rate)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        plain = asdict(replace(self, optimizer=SGD()))
        return {**plain, "optimizer": self.optimizer.spec(), "trained": list(self.trained)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LocalTraining:
        """What is left out is as by default."""
        given = dict(plain)
        if "optimizer" in given:
            spec = dict(given["optimizer"])
            given["optimizer"] = optimizers.create(spec.pop("name"), **spec)
        if "trained" in given:
            given["trained"] = tuple(given["trained"])
        return cls(**given)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of what it says."""
        return tuple(entry.name for entry in fields(cls))


def freeze(model: nn.Module, trained: Sequence[str]) -> nn.Module:
    """Train only the parameters that a pattern fits, in place; all that were trained where there is no pattern.

    Raises:
        ValueError: a pattern that fits no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in trained:
        if not any(fnmatchcase(name, pattern) for name in names):
            listed = ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])])
            raise ValueError(f"trained: {pattern!r} fits no parameter of the model; it has {listed}")
    for name, parameter in model.named_parameters():
        if trained and not any(fnmatchcase(name, pattern) for pattern in trained):
            parameter.requires_grad_(False)
    return model

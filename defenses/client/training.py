"""What a client's local training is: the optimizer, the batches and their order, and what is added to the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from defenses.client.groups import Group, Part, optimizer_from, refuse_foreign, schedule_from
from defenses.client.optimizers import Estimate, Optimizer, State
from defenses.client.optimizers.sgd import SGD
from defenses.client.schedules import Schedule

Tensors = Mapping[str, Tensor]
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """One round of a client.

    Args:
        steps: optimizer steps, each on a fresh batch; with `epochs` it says nothing.
        epochs: passes over the client's own examples, in batches, the last one ragged; None: `steps` fresh batches.
        learning_rate: of each step, times the factor of the schedule.
        schedule: None: the rate is constant over the round.
        optimizer: its state starts afresh each round.
        groups: parameters that are trained otherwise, as in a parameter group of torch.
        clip_norm: bound of each step's gradient in L2 norm, over all parameters; None: none.
        clip_value: bound of each entry of it; None: none.
        proximal: weight mu of FedProx' term `mu / 2 |w - w_0|^2` (Li et al., MLSys 2020).
        label_smoothing: share of each label that is spread over all classes.
        trained: patterns (`head.*`) of the parameters that are trained; empty: all.
    """

    steps: int = 1
    epochs: int | None = None
    learning_rate: float = 0.1
    schedule: Schedule | None = None
    optimizer: Optimizer = field(default_factory=SGD)
    groups: tuple[Group, ...] = ()
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

    def parts(self, names: Iterable[str]) -> tuple[Part, ...]:
        """Parameters, by name, divided into those that are trained alike; no part is empty.

        In the order of the groups, whatever that of the names: states of one call belong to the parts of another.
        """
        own: list[list[str]] = [[] for _ in range(len(self.groups) + 1)]
        for name in names:
            own[next((n for n, group in enumerate(self.groups, 1) if group.has(name)), 0)].append(name)
        groups = (None, *self.groups)
        return tuple(self._part(group, tuple(members)) for group, members in zip(groups, own, strict=True) if members)

    def _part(self, group: Group | None, names: tuple[str, ...]) -> Part:
        if group is None:
            return Part(names, self.optimizer, self.learning_rate, self.schedule)
        schedule = self.schedule if group.schedule is None else group.schedule
        return Part(names, group.optimizer or self.optimizer, self.learning_rate * group.scale, schedule)

    def init(self, parameters: Tensors) -> tuple[State, ...]:
        """The optimizer's state before the first step of a round, part by part."""
        return tuple(part.optimizer.init(_of(part, parameters)) for part in self.parts(parameters))

    def rates(self, names: Iterable[str], step: int) -> tuple[float, ...]:
        """The learning rate of each part of these parameters, in the step of this number, the first being 0."""
        return tuple(part.rate(step) for part in self.parts(names))

    def change(
        self,
        gradient: Tensors,
        state: tuple[State, ...],
        weights: Tensors,
        rates: Sequence[float],
        *,
        surrogate: bool = False,
    ) -> tuple[dict[str, Tensor], tuple[State, ...]]:
        """By how much a step changes the parameters, and the optimizer's state after it.

        Args:
            gradient: that the optimizer is given, of all parameters that `init` was given.
            rates: of the step, part by part (`rates`).
            surrogate: whether a picture of it is wanted that is easier to differentiate (`Optimizer.surrogate`).
        """
        changes, after = dict[str, Tensor](), list[State]()
        for part, own, rate in zip(self.parts(gradient), state, rates, strict=True):
            update = part.optimizer.surrogate if surrogate else part.optimizer.update
            change, own = update(_of(part, gradient), own, _of(part, weights), rate)
            changes |= change
            after.append(own)
        return {name: changes[name] for name in gradient}, tuple(after)

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """All that there are: the round's own, and those of its groups."""
        return (self.optimizer, *(group.optimizer for group in self.groups if group.optimizer is not None))

    @property
    def linear(self) -> bool:
        """Whether what it sends is linear in the weights and the steps' gradients, clipping apart."""
        return all(isinstance(optimizer, SGD) for optimizer in self.optimizers)

    def first_gradient(self, change: Tensors, start: Tensors) -> dict[str, Tensor] | None:
        """The gradient of the loss that the change of a first step reveals (with `clip_norm`: a multiple of it).

        None where it does not: of an optimizer that keeps it to itself, of clipped entries, at a rate of zero.
        """
        return self._first(change, lambda part: part.optimizer.first_gradient(
            _of(part, change), _of(part, start), part.rate(0)
        ))

    def first_estimate(self, change: Tensors, rounding: Tensors, start: Tensors) -> dict[str, Estimate] | None:
        """The same of a change that was rounded, with a standard deviation for each of its entries."""
        return self._first(change, lambda part: part.optimizer.first_estimate(
            _of(part, change), _of(part, rounding), _of(part, start), part.rate(0)
        ))

    def _first(
        self, change: Tensors, of: Callable[[Part], Mapping[str, Found] | None]
    ) -> dict[str, Found] | None:
        """What the parts say of their gradients, together; None where one of them says nothing."""
        if self.clip_value is not None:
            return None
        found: dict[str, Found] = {}
        for part in self.parts(change):
            own = of(part) if part.rate(0) else None
            if own is None:
                return None
            found |= own
        return {name: found[name] for name in change}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        plain = asdict(replace(self, optimizer=SGD(), schedule=None, groups=()))
        return {
            **plain,
            "schedule": None if self.schedule is None else self.schedule.spec(),
            "optimizer": self.optimizer.spec(),
            "groups": [group.to_dict() for group in self.groups],
            "trained": list(self.trained),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LocalTraining:
        """What is left out is as by default."""
        given = dict(plain)
        if "optimizer" in given:
            given["optimizer"] = optimizer_from(given["optimizer"])
        if given.get("schedule") is not None:
            given["schedule"] = schedule_from(given["schedule"])
        if "groups" in given:
            given["groups"] = tuple(Group.from_dict(group) for group in given["groups"])
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
    refuse_foreign(model, trained, "trained")
    for name, parameter in model.named_parameters():
        if trained and not any(fnmatchcase(name, pattern) for pattern in trained):
            parameter.requires_grad_(False)
    return model


def _of(part: Part, values: Mapping[str, Found]) -> dict[str, Found]:
    return {name: values[name] for name in part.names}

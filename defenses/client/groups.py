"""Parameters that a client trains unlike the others: what `torch.optim` calls parameter groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from defenses.client import optimizers, schedules
from defenses.client.optimizers import Optimizer
from defenses.client.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some parameters, and in what their training differs.

    Args:
        parameters: patterns (`*.bias`) of their names; of several groups that a name fits the first one has it.
        scale: their learning rate over the round's.
        optimizer: theirs; None: the round's. Either way its state is their own.
        schedule: theirs; None: the round's.
    """

    parameters: tuple[str, ...]
    scale: float = 1.0
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ValueError("groups: one has no patterns of parameters")
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"groups: scale = {self.scale} is not a number of at least 0")

    def has(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.parameters)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        return {
            "parameters": list(self.parameters),
            "scale": self.scale,
            "optimizer": None if self.optimizer is None else self.optimizer.spec(),
            "schedule": None if self.schedule is None else self.schedule.spec(),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Group:
        """What is left out is as by default."""
        given = {**plain, "parameters": tuple(plain["parameters"])}
        if given.get("optimizer") is not None:
            given["optimizer"] = optimizer_from(given["optimizer"])
        if given.get("schedule") is not None:
            given["schedule"] = schedule_from(given["schedule"])
        return cls(**given)


@dataclass(frozen=True)
class Part:
    """Parameters that are trained alike, by name, and how: `learning_rate` times the schedule's factor in each step."""

    names: tuple[str, ...]
    optimizer: Optimizer
    learning_rate: float
    schedule: Schedule | None

    def rate(self, step: int) -> float:
        """The learning rate of the step of this number, the first being 0."""
        return self.learning_rate * (1.0 if self.schedule is None else self.schedule.factor(step))


def optimizer_from(spec: Mapping[str, Any]) -> Optimizer:
    """From what `Optimizer.spec` gives."""
    return optimizers.create(spec["name"], **{key: value for key, value in spec.items() if key != "name"})


def schedule_from(spec: Mapping[str, Any]) -> Schedule:
    """From what `Schedule.spec` gives."""
    return schedules.create(spec["name"], **{key: value for key, value in spec.items() if key != "name"})


def refuse_foreign(model: nn.Module, patterns: Sequence[str], of: str) -> None:
    """Raise ValueError for a pattern that fits no parameter of the model."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            listed = ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])])
            raise ValueError(f"{of}: {pattern!r} fits no parameter of the model; it has {listed}")

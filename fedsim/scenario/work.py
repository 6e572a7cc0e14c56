"""What a cell comes to: all that determines what the clients of a federation send, with everything filled in.

It travels as JSON, to the simulation's process and in Flower's messages, and its hash is the cell's key. So what is
written says no more than it ever did: a key that came later than others is left out where it says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedsim.local import Local

Spec = Mapping[str, Any]
"""`{"name": ..., **parameters}` of something registered: its keys are for what it names to read."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one client occupies while it trains."""

    cpus: int = 1
    gpus: float = 0


@dataclass(frozen=True, kw_only=True)
class Federation:
    clients: int
    clients_per_round: int
    rounds: int
    local: Local
    resources: Resources = Resources()

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "local": self.local.to_dict()}

    @classmethod
    def from_dict(cls, plain: Spec) -> Federation:
        local, resources = Local.from_dict(plain["local"]), Resources(**plain["resources"])
        return cls(**{**plain, "local": local, "resources": resources})


@dataclass(frozen=True, kw_only=True)
class Victims:
    """Whose updates are attacked: in each of these rounds the first clients, of whom some are for development."""

    rounds: tuple[int, ...]
    clients: int
    development: int = 0


@dataclass(frozen=True, kw_only=True)
class CentralTraining:
    """Plain SGD on the whole training part, without a federation or a defense.

    Args:
        dropout: the model's own rate, whatever the defense makes of it.
    """

    steps: int
    batch_size: int
    learning_rate: float
    dropout: float | None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file of weights, and the fingerprint of what is in it."""

    path: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where the global model's first weights come from: at most one of these, or else a fresh initialisation."""

    pretrain: CentralTraining | None = None
    checkpoint: Checkpoint | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: asdict(each) for name, each in vars(self).items() if each is not None}

    @classmethod
    def from_dict(cls, plain: Spec) -> Start:
        kinds = {"pretrain": CentralTraining, "checkpoint": Checkpoint}
        return cls(**{name: kinds[name](**each) for name, each in plain.items()})


@dataclass(frozen=True, kw_only=True)
class UtilityLocal:
    """What the clients of an unattacked training do otherwise than the attacked ones."""

    batch_size: int
    steps: int
    learning_rate: float

    def of(self, attacked: Local) -> Local:
        """Their local training; more than one step is shared as weights."""
        training = replace(attacked.training, steps=self.steps, learning_rate=self.learning_rate)
        share = "weights" if self.steps > 1 else attacked.share
        return replace(attacked, batch_size=self.batch_size, training=training, share=share)


@dataclass(frozen=True, kw_only=True)
class Utility:
    """The training that is done unattacked.

    Args:
        reachable: the central training of the model for what it reaches; None: not wanted.
    """

    rounds: int
    local: UtilityLocal
    reachable: CentralTraining | None

    @classmethod
    def from_dict(cls, plain: Spec) -> Utility:
        reachable = plain["reachable"]
        return cls(
            rounds=plain["rounds"],
            local=UtilityLocal(**plain["local"]),
            reachable=None if reachable is None else CentralTraining(**reachable),
        )


@dataclass(frozen=True, kw_only=True)
class Work:
    """No attack and no label of the table is part of it, so that equal work has equal results.

    Args:
        data: the data set, and how it is divided among the clients.
        model: with what the defense replaces in it (the dropout rate).
        defense: without the parts that only change the model block.
        salt: the hash of what the run's clients are salted with; empty where they are not.
        content: the fingerprint of the user's own data; None for others.
        source: that of the user's own model code.
        malicious: the attack whose server changes the model that it sends in the attacked rounds; None: it is honest.
    """

    data: Spec
    model: Spec
    federation: Federation
    defense: tuple[Spec, ...]
    seed: int
    victims: Victims
    utility: Utility | None = None
    salt: str = ""
    start: Start = Start()
    content: str | None = None
    source: str | None = None
    malicious: Spec | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it."""
        later = {
            "salt": self.salt,
            "start": self.start.to_dict(),
            "content": self.content,
            "source": self.source,
            "malicious": self.malicious,
        }
        return {
            "data": self.data,
            "model": self.model,
            "federation": self.federation.to_dict(),
            "defense": list(self.defense),
            "seed": self.seed,
            "victims": {**asdict(self.victims), "rounds": list(self.victims.rounds)},
            "utility": None if self.utility is None else asdict(self.utility),
            **{key: value for key, value in later.items() if value},
        }

    @classmethod
    def from_dict(cls, plain: Spec) -> Work:
        utility = plain["utility"]
        victims = plain["victims"]
        return cls(
            **{
                **plain,
                "federation": Federation.from_dict(plain["federation"]),
                "defense": tuple(plain["defense"]),
                "victims": Victims(**{**victims, "rounds": tuple(victims["rounds"])}),
                "utility": None if utility is None else Utility.from_dict(utility),
                "start": Start.from_dict(plain.get("start", {})),
            }
        )

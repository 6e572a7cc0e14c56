"""What a scenario may say of the honest training: the federation, and what its clients do in a round."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedsim.scenario.members import SGD, Block, Count, Optimizer, Positive, Rate, Schedule

CLIENTS = 4


class Group(Block):
    """Parameters that a client trains unlike the others."""

    parameters: Annotated[tuple[str, ...], Field(min_length=1)]
    """Patterns of their names, such as `*.bias`; the first group that a name fits has it."""
    scale: Annotated[float, Field(ge=0)] = 1.0
    """Their learning rate over `learning_rate`."""
    optimizer: Optimizer | None = None
    """Theirs; null is that of the others."""
    schedule: Schedule | None = None
    """Theirs; null is that of the others."""


class Local(Block):
    """What a client does in a round."""

    batch_size: Count = 1
    """Images of a local step."""
    steps: Count = 1
    """Local optimizer steps, each on a fresh batch."""
    epochs: Count | None = None
    """Passes over the client's own examples, in place of `steps` fresh batches; the last batch of a pass may be
    smaller."""
    examples: Count | None = None
    """How many of its examples a client goes through in its epochs; null is all."""
    learning_rate: Positive = 0.1
    """Of the local optimizer."""
    schedule: Schedule | None = None
    """What it is multiplied by in each step of a round; null is a constant rate."""
    optimizer: Optimizer = SGD
    """Its state starts afresh in each round."""
    groups: tuple[Group, ...] = ()
    """Parameters that are trained otherwise."""
    clip_norm: Positive | None = None
    """Bound of each step's gradient in L2 norm; null is none."""
    clip_value: Positive | None = None
    """Bound of each entry of it; null is none."""
    proximal: Annotated[float, Field(ge=0)] = 0.0
    """Weight mu of FedProx' term, `mu / 2 |w - w_0|^2`."""
    label_smoothing: Rate = 0.0
    """Share of each label that is spread over all classes."""
    trained: tuple[str, ...] = ()
    """Patterns of the parameters that clients train, such as `head.*`; empty is all."""
    mode: Literal["train", "eval"] = "train"
    """train: dropout active, batch norm on batch statistics: what an honest client does."""
    share: Literal["gradient", "weights"] = "gradient"
    """gradient is FedSGD (one step); weights is FedAvg."""
    precision: Literal["float32", "float64"] = "float32"
    """The floating-point type that clients compute in and send."""


class Resources(Block):
    """What one client occupies while it trains."""

    cpus: Count = 1
    """Processors."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs; a fraction lets several clients share one."""


class Federation(Block):
    """The honest training that the server eavesdrops on."""

    clients: Count = CLIENTS
    """How many there are."""
    clients_per_round: Count = Field(default_factory=lambda data: data.get("clients", CLIENTS))
    """Clients drawn each round; all by default."""
    rounds: Count = 1
    """In each the server sends its model, and clients send what they learnt."""
    deadline: Annotated[float, Field(gt=0, le=100_000)] = 10
    """Minutes that one client may take for its round: what takes longer is ended and tried once more. It is no part of
    a cell's identity."""
    local: Local = Local()
    """What a client does in a round."""
    resources: Resources = Resources()
    """What one client occupies while it trains."""

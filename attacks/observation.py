"""What a server saw of one client in one round, or of several together, and what it is assumed to know besides: the
information barrier.

An attack is given an `Observation`, the `ThreatModel` and a model of its own, and nothing else. A field that the
threat model does not grant is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from torch import Tensor

from defenses.client.training import LocalTraining

Tensors = Mapping[str, Tensor]

SUM = -1
"""The `client` of an observation that is a sum over several."""

OF_LABELS = 0
"""The batch size that an observation states by its labels."""


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """Who the adversary is and what it knows. Every result row carries all of these fields as `threat_<field>`.

    Args:
        server: `malicious`: it changes the model that it sends.
        aggregation: `individual`, or `sum_of_k`: the server sees only sums over k clients.
        labels: of the attacked images: told, inferred from the update, or optimised with the images.
        batch_size: how many images a client trains on.
        defense: what the client does against attacks; known, attacks that optimise replay it.
        dropout_rate: of the client's model.
        noise: what the client drew (its dropout masks). Known, an oracle: no real server has it.
        client_mode: in which the client's model trains.
        batch_norm: `running`: the statistics that were sent, of no batch of the client's; `batch`: those of its own
            batches, which the buffers that it returned reveal (`attacks.statistics`).
        local_training: the client's optimizer, learning rate, steps and schedule.
        batch_order: in which order the client's epochs took its examples.
        normalisation: by whose mean and deviation images are normalised.
        auxiliary_data: public images of the same kind.
    """

    server: Literal["passive", "malicious"] = "passive"
    aggregation: str = "individual"
    labels: Literal["known", "inferred", "unknown"] = "known"
    batch_size: Literal["known", "unknown"] = "known"
    defense: Literal["known", "unknown"] = "unknown"
    dropout_rate: Literal["known", "unknown"] = "known"
    noise: Literal["known", "unknown"] = "unknown"
    client_mode: Literal["train", "eval"] = "train"
    batch_norm: Literal["none", "running", "batch"] = "none"
    local_training: Literal["known", "unknown"] = "known"
    batch_order: Literal["known", "unknown"] = "unknown"
    normalisation: Literal["public", "client"] = "public"
    auxiliary_data: Literal["none", "public"] = "none"

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def choices(cls) -> list[str]:
        return [f.name for f in fields(cls)]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One client's reply in one round, as the server received it; or the mean of several clients' replies.

    Such a sum (`clients`, `weights`) is told as one larger batch: `batch_size`, `examples`, `labels` and `noise` are of
    all clients together, those of one step side by side. It is the update of that batch where all weigh alike and none
    but the mean loss acted on them: the gradient of one step, or one step of plain SGD, since both are linear in the
    examples' gradients (`attacks.updates.as_one_batch`).

    Args:
        state: the global model that the server sent: parameters and buffers by name.
        update: what came back, by parameter name, shapes as in `state`.
        kind: `gradient` (of the mean loss over the batch), or `delta`: returned weights minus sent weights.
        precision: the floating-point type that the update travelled in, e.g. `float32`. A float32 delta of a small step
            has lost digits, and an attack's accuracy with them.
        input_shape: (C, H, W) of one image.
        classes: the number of classes.
        mean, std: per channel; a model sees `(pixel - mean) / std` with pixels in [0, 1].
        buffers: the buffers the client returned (batch-norm statistics), empty if none.
        batch_size: images per local step, if granted; None where it is not. By default as many as there are labels for,
            or one.
        examples: how many distinct images the client trained on, where that does not follow from its local training:
            of a client that trains for epochs all that it has, which it reports to be weighted by. None: it follows.
        local: the local training, if granted.
        order: the order in which epochs took the examples, (epochs * examples,) int64, if granted.
        labels: (images,) int64 class indices, of the steps' batches one after the other, if granted.
        noise: what was drawn, one tensor a random site (see `defenses.client.site`), if granted (an oracle): of a
            dropout layer (images, ...) by its module path.
        public: (N, C, H, W) public images in normalised units, if granted.
        defense: the client's defenses as `{"name": ..., **parameters}`, if granted.
        round, client: where it was seen; they seed the attack's own randomness and nothing else. The client of a sum is
            `SUM`.
        clients: whose updates it is the mean of; empty for one client's own.
        weights: how much each of them weighs in it, such as its number of examples.
        earlier: what was seen of the same client, or of the sum over the same ones, in earlier rounds, for attacks that
            look back.
    """

    state: Tensors
    update: Tensors
    kind: Literal["gradient", "delta"] = "gradient"
    precision: str = "float32"
    input_shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    buffers: Tensors = field(default_factory=dict)
    batch_size: int | None = OF_LABELS
    examples: int | None = None
    local: LocalTraining | None = field(default_factory=LocalTraining)
    order: Tensor | None = None
    labels: Tensor | None = None
    noise: Tensors | None = None
    public: Tensor | None = None
    defense: tuple[Mapping[str, Any], ...] | None = None
    round: int = 1
    client: int = 0
    clients: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    earlier: tuple[Observation, ...] = ()

    def __post_init__(self) -> None:
        if self.batch_size == OF_LABELS:
            steps = self.local.steps if self.kind == "delta" and self.local is not None else 1
            object.__setattr__(self, "batch_size", 1 if self.labels is None else max(1, len(self.labels) // steps))

"""From what anybody's server recorded to what an attack is given.

One reply is told in two forms. `told` is the round as the user describes it: the change of the weights after such a
local training. `blind` is what is left to a server that knows nothing of the training: it takes the change, with its
sign turned, for a multiple of one gradient. Closed forms ask for no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attacks import LocalTraining, Observation
from attacks.statistics import revealed
from fedsim.audit.matching import Unusable, aligned, missing, precision_of
from fedsim.audit.told import Told
from fedsim.models import entries
from fedsim.recording import Recorded

Form = Literal["told", "blind"]

EXAMPLES = ("num-examples", "num_examples", "num-samples", "num_samples", "n")
"""What metrics call the number of a client's examples."""


@dataclass(frozen=True)
class Reply:
    """A recorded reply, fitted to the model.

    Args:
        round, node: where it was seen.
        state: what was sent, whole: entries that no array held are as the model has them.
        update: weights after training minus weights sent, or the gradient, by parameter that the model trains.
        buffers: those that came back.
        absent: entries of the state that were not sent.
        fixed_moved: parameters that the model does not train, and that changed.
        examples: images of the client's round, as it or the user says; None: nobody does.
        precision: the floating-point type that the reply travelled in.
    """

    round: int
    node: str
    state: Mapping[str, Tensor]
    update: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    absent: tuple[str, ...]
    fixed_moved: tuple[str, ...]
    examples: int | None
    precision: str

    @classmethod
    def of(cls, recorded: Recorded, told: Told, model: nn.Module) -> Reply:
        """Raises Unusable: nothing in it can be attacked."""
        with _located("what was sent"):
            sent = aligned(recorded.sent, model)
        with _located("the reply"):
            received = aligned(recorded.received, model)
        names = entries.trained(model)
        back = [entry for entry in names if entry in received and entry in sent]
        if not back:
            raise Unusable("the reply holds no parameter that the model trains")
        update: dict[str, Tensor] = {}
        for entry in back:
            change = received[entry] if told.shared == "gradient" else received[entry] - sent[entry]
            update.setdefault(names[entry], change.float())
        if not any(value.any() for value in update.values()):
            raise Unusable("the reply is what was sent: nothing was trained")
        buffers = entries.buffers(model)
        state = {**model.state_dict(), **sent}
        fixed = [name for name in entries.frozen(model) if name in received and name in sent]
        return cls(
            round=recorded.round,
            node=recorded.node,
            state={name: v.float() if v.is_floating_point() else v for name, v in state.items()},
            update=update,
            buffers={name: value for name, value in received.items() if name in buffers},
            absent=tuple(missing(sent, model)),
            fixed_moved=tuple(name for name in fixed if not torch.equal(received[name], sent[name])),
            examples=told.examples or _examples(recorded.metrics),
            precision=precision_of(recorded.received),
        )


@dataclass(frozen=True)
class MessageSays:
    """What the message of a round told the client of its training."""

    rate: float | None
    epochs: int | None
    batch_size: int | None


RATES = ("lr", "learning-rate", "learning_rate")
EPOCHS = ("local-epochs", "local_epochs", "epochs")
BATCHES = ("batch-size", "batch_size")


def message_says(config: Mapping[str, Any]) -> MessageSays:
    """Read a message's config by the names that apps give such values."""

    def number(names: tuple[str, ...]) -> float | None:
        found = next((config[name] for name in names if name in config), None)
        return found if isinstance(found, int | float) and not isinstance(found, bool) and found > 0 else None

    rate, epochs, size = number(RATES), number(EPOCHS), number(BATCHES)
    return MessageSays(rate, None if epochs is None else int(epochs), None if size is None else int(size))


def completed(told: Told, recorded: Recorded) -> Told:
    """What the user says, what he leaves open taken from the message and from the client's own number of examples.

    Of a client that has more images than a batch holds, and of whose length nothing is said, one epoch is assumed.
    """
    said = message_says(recorded.config)
    batch_size = told.batch_size or said.batch_size
    local = told.local
    if local is None and told.unrated is not None and said.rate is not None:
        local = replace(told.unrated, learning_rate=said.rate)
    if local is not None and not told.length_said:
        examples = told.examples or _examples(recorded.metrics)
        if said.epochs is not None:
            local = replace(local, epochs=said.epochs)
        elif examples is not None and batch_size is not None and examples > batch_size:
            local = replace(local, epochs=1)
    return replace(told, local=local, batch_size=batch_size)


def images_of(reply: Reply, told: Told) -> int | None:
    """How many distinct images a reply is made of; None where that was not said."""
    local, size = told.local, told.batch_size
    if local is not None and local.epochs is not None:
        return reply.examples
    if local is not None and size is not None:
        return local.steps * size
    return reply.examples if reply.examples is not None else size


def steps_of(reply: Reply, told: Told) -> int | None:
    """How many optimizer steps it is made of; None where that was not said."""
    local = told.local
    if local is None:
        return None
    if told.shared == "gradient" or local.epochs is None:
        return 1 if told.shared == "gradient" else local.steps
    if reply.examples is None or told.batch_size is None:
        return None
    return local.count(reply.examples, told.batch_size)


def observation(reply: Reply, told: Told, *, form: Form, client: int) -> Observation:
    """What an attack sees, all fields set that anything can be granted of.

    Args:
        client: a number that stands for the node.
    """
    plain = Observation(
        state=reply.state,
        update=reply.update,
        kind="gradient" if told.shared == "gradient" else "delta",
        precision=reply.precision,
        input_shape=told.shape,
        classes=told.classes,
        mean=told.mean,
        std=told.std,
        buffers=reply.buffers,
        batch_size=told.batch_size,
        examples=reply.examples,
        local=told.local or LocalTraining(),
        defense=told.defense,
        round=reply.round,
        client=client,
    )
    if form == "told" or told.shared == "gradient":
        return plain
    update = {name: -value for name, value in reply.update.items()}
    images = images_of(reply, told)
    return replace(plain, update=update, kind="gradient", batch_size=images, examples=images, local=LocalTraining())


def derived(reply: Reply, told: Told, *, form: Form) -> dict[str, str]:
    """The fields of the threat model that follow from what came back."""
    learnt = revealed(reply.state, reply.buffers)
    if form == "blind" and learnt == "batch":  # whoever reads those of the batches knows how many steps there were
        learnt = "running"
    return {"client_mode": told.mode, "batch_norm": learnt}


def _examples(metrics: Mapping[str, Any]) -> int | None:
    return next((int(metrics[key]) for key in EXAMPLES if isinstance(metrics.get(key), int | float)), None)


@contextmanager
def _located(what: str) -> Iterator[None]:
    try:
        yield
    except Unusable as fault:
        raise Unusable(f"{what}: {fault}") from None

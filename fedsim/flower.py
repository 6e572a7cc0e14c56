"""fedsim's defenses in any Flower app, as mods of its clients.

from fedsim.flower import mod

app = ClientApp(mods=[mod("clip", norm=1.0), mod("pruning", keep=0.1)])

A mod acts on what a client sends, and on nothing before: the change of the weights. Of several mods Flower runs the
last one first, since each wraps those after it; here the update is pruned, then clipped.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod
from torch import Tensor

import defenses
from defenses.base import Defense, Turn
from defenses.client.site import Sampling

BUFFERS = ("*running_mean", "*running_var")
"""Names that PyTorch's batch norm gives to statistics, which are no parameters."""

_around: ContextVar[tuple[str, ...]] = ContextVar("the defenses of the mods around the one that runs", default=())


def mod(name: str, /, *, buffers: Sequence[str] = BUFFERS, **parameters: Any) -> Mod:
    """A defense that acts on the update alone, as a mod of a Flower client.

    What it draws is seeded from the operating system. What it remembers from round to round (the error feedback of
    `pruning`) is kept in the node's context; mods of the same defense have a memory each, by their order.

    Args:
        name: of the defense: `fedsim list defenses`.
        buffers: patterns of the arrays that it leaves alone, besides those of integers.
        parameters: of the defense.

    Returns:
        a mod of `flwr.clientapp.ClientApp`. It raises ValueError, which Flower reports as that client's error, where a
        message holds anything but one record of arrays, or the reply other arrays than were sent.

    Raises:
        ValueError: the defense acts elsewhere too, or a parameter is out of its range.
    """
    defense = defenses.create(name, **parameters)
    if (where := _elsewhere(defense)) is not None:
        raise ValueError(f"{name} acts on {where}, which a mod does not see: a mod is given the update alone")
    if _looks_at_the_client(defense):
        raise ValueError(f"{name} looks at the client's model and images, which a mod does not see")

    def wrapped(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type.partition(".")[0] != "train":
            return call_next(message, context)
        [sent] = _only(message, "the message")
        sent = dict(sent.to_torch_state_dict())
        around = _around.get()
        inside = _around.set((*around, name))
        try:
            reply = call_next(message, context)
        finally:
            _around.reset(inside)
        if reply.has_error():
            return reply
        [record] = _only(reply, "the client's reply")
        returned = record.to_torch_state_dict()
        if returned.keys() != sent.keys():
            differing = ", ".join(sorted(returned.keys() ^ sent.keys()))
            raise ValueError(f"{name}: the client's reply does not have the arrays that were sent ({differing})")
        key = next(iter(reply.content.array_records))
        trained = [
            array
            for array, value in returned.items()
            if value.is_floating_point() and not any(fnmatchcase(array, pattern) for pattern in buffers)
        ]
        change = {array: returned[array] - sent[array] for array in trained}
        changed = _defended(defense, change, context, around.count(name))
        reply.content[key] = ArrayRecord(
            {array: sent[array] + changed[array] if array in changed else value for array, value in returned.items()}
        )
        return reply

    return wrapped


def _elsewhere(defense: Defense) -> str | None:
    """What a defense acts on besides the update, or in its place."""
    places = {
        "the model": (defense.changes_model and not defense.checks_model) or bool(defense.model_overrides()),
        "the local training": bool(defense.local_overrides()),
        "the images": defense.changes_batch,
        "the loss": defense.changes_loss,
        "the gradients of single steps": defense.replaces_gradient,
        "the sum over clients": defense.aggregates,
        "the server's mean": defense.changes_mean,
        "nothing": not defense.changes_update,
    }
    return next((place for place, acts in places.items() if acts), None)


def _looks_at_the_client(defense: Defense) -> bool:
    """Whether it wants to know more than an update (`Turn.client`): tried on a small one."""
    source = Sampling(lambda site, step: torch.Generator().manual_seed(0), additive=False)
    try:
        defense.on_update({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, turn=Turn(source.draw))
    except ValueError:
        return True
    return False


def _defended(defense: Defense, update: dict[str, Tensor], context: Context, before: int) -> dict[str, Tensor]:
    """What leaves the client in place of its update, and what the defense remembers of it.

    Args:
        before: how many mods of the same defense stand before this one.
    """
    records = context.state.array_records
    key = f"fedsim {defense.name}" + (f"#{before + 1}" if before else "")
    memory = dict(records[key].to_torch_state_dict()) if key in records else {}
    source = Sampling(lambda site, step: torch.Generator().manual_seed(secrets.randbits(63)), additive=False)
    turn = Turn(source.draw, memory, part=defense.name)
    changed = defense.on_update(update, turn=turn)
    if turn.memory:
        records[key] = ArrayRecord({name: value.cpu() for name, value in turn.memory.items()})
    return changed


def _only(message: Message, what: str) -> list[ArrayRecord]:
    records = list(message.content.array_records.values())
    if len(records) != 1:
        raise ValueError(f"{what} holds {len(records)} records of arrays; a mod takes one")
    return records

"""One client's reply in one round, as anybody's server saw it: what was sent, and what came back."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsim.recording.records import Records, alike, parted

Value = bool | int | float | str | bytes | list[bool] | list[int] | list[float] | list[str] | list[bytes]
"""What Flower's records hold of what is not an array; also a metric, of which only numbers and lists of them occur."""


@dataclass(frozen=True)
class Recorded:
    """What a server knows of one client after one round.

    Args:
        round: counted from 1.
        node: Flower's node id in decimal digits, or any name.
        sent: the arrays that the client was sent, in their order; usually a state dict.
        received: what came back under the same names and in the same shapes, in its own order and its own dtypes: the
            weights after training, or gradients where clients send those.
        metrics: what the client told of itself, e.g. `num-examples`.
        config: what the message told the client, e.g. a learning rate.
        records: empty where message and reply hold one record of arrays each. Else the names of all records: arrays are
            then called `record/name` in `sent` and `received` (`fedsim.recording.records`), and a record may be in one
            of the two alone.
        record, config_record: what the message calls its records of arrays and of config, where it holds one.
    """

    round: int
    node: str
    sent: dict[str, Tensor]
    received: dict[str, Tensor]
    metrics: dict[str, Value] = field(default_factory=dict)
    config: dict[str, Value] = field(default_factory=dict)
    records: tuple[str, ...] = ()
    record: str = "arrays"
    config_record: str = "config"


@dataclass(frozen=True)
class Fault:
    """What could not be recorded, or not be read again, and why, in one line."""

    round: int
    node: str
    reason: str


def fault_of(
    sent: Mapping[str, Tensor], received: Mapping[str, Tensor], records: Collection[str] = ()
) -> str | None:
    """Why a reply says nothing that could be compared with what was sent, or aggregated; None if it does.

    Order and dtype may differ; names and shapes may not, and every number is finite. Of several records that holds for
    one that came back and one that was sent; others may be anything.
    """
    if records:
        return _fault_of_records(parted(sent, records), parted(received, records))
    if received.keys() != sent.keys():
        return f"the reply's arrays are not those of the model: {_differing(sent, received)}"
    for name, value in received.items():
        if value.shape != sent[name].shape:
            return f"{name} has shape {tuple(value.shape)}, not {tuple(sent[name].shape)}"
        if value.is_complex() and not sent[name].is_complex():
            return f"{name} holds complex numbers"
        if not _finite(value):
            return f"{name} holds NaN or infinity"
    return None


def _fault_of_records(sent: Records, received: Records) -> str | None:
    pairs = [(one, other) for one in sent.values() for other in received.values() if alike(one, other)]
    if not pairs:
        there = ", ".join(f"{name} ({len(arrays)})" for name, arrays in received.items()) or "none"
        return f"no record of the reply has the arrays of one that was sent; it holds {there}"
    faults = [fault_of(one, other) for one, other in pairs]
    return None if None in faults else faults[0]


def _finite(value: Tensor) -> bool:
    if value.is_floating_point() and value.numel():  # the ends say it of all, NaN included, without a copy
        return all(math.isfinite(end) for end in torch.aminmax(value))
    return bool(torch.isfinite(value).all())


def _differing(sent: Mapping[str, Tensor], received: Mapping[str, Tensor]) -> str:
    missing = [name for name in sent if name not in received]
    more = [name for name in received if name not in sent]
    parts = [f"{_some(missing)} missing"] if missing else []
    return ", ".join([*parts, f"{_some(more)} never sent"] if more else parts)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

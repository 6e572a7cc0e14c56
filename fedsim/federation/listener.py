"""What fedsim's own server makes of what the eavesdropper hears: clients by partition, each with its sealed truth.

A reply is untrusted. `Ear` has seen to it that its arrays are those of the model, in their shapes and finite; what
else a server needs of it is asked here, once. What is amiss costs that client's rows and nobody else's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from fedsim.errors import on_one_line
from fedsim.federation.client import BYTES
from fedsim.recording import Recorded
from fedsim.recording.recorded import Value
from fedsim.truth import Truth, unpack

EXAMPLES = "num-examples"


class Refused(Exception):
    """A reply that cannot be used; its text is the reason."""


@dataclass(frozen=True)
class Capture:
    """One client's reply in one round: what the server sent, what came back, and how many bytes that would be."""

    round: int
    client: int
    sent: dict[str, Tensor]
    received: dict[str, Tensor]
    examples: int
    bytes: int | None = None


class Listener:
    """A recorder (`fedsim.recording.recorder`) that knows which partition a node holds, and has the envelopes.

    Args:
        partition_of: the partition of each node.
        envelopes: the sealed truth of each node's last reply, where the client sent it; the grid took it out.
        images: how many images a client trains on in a round, which is what it has to say of itself.
        on_capture: called with each good reply, and with the truth, or with why there is none that can be opened.
        on_fault: called with (round, client, reason) for each client whose reply is unusable.
        lost: the nodes of the last exchange whose reply is missing through no fault of their answer: they may do better
            another time.
        on_lost: called as well, with the same, for each of those.
    """

    def __init__(
        self,
        *,
        partition_of: Mapping[int, int],
        envelopes: Mapping[int, bytes],
        images: Callable[[int], int],
        on_capture: Callable[[Capture, Truth | str], None],
        on_fault: Callable[[int, int, str], None],
        lost: Collection[int] = (),
        on_lost: Callable[[int, int, str], None] = lambda round, client, reason: None,
    ) -> None:
        self._partition_of = partition_of
        self._envelopes = envelopes
        self._images = images
        self._on_capture = on_capture
        self._on_fault = on_fault
        self._lost = lost
        self._on_lost = on_lost
        self._examples: dict[tuple[int, str], int] = {}

    def wants(self, round: int, node: str) -> bool:
        return True

    def add(self, recorded: Recorded) -> None:
        client = self._partition_of[int(recorded.node)]
        try:
            capture = _capture(recorded, client, self._images(client))
        except Refused as reason:
            self.fault(recorded.round, recorded.node, str(reason))
            return
        self._examples[recorded.round, recorded.node] = capture.examples
        self._on_capture(capture, _opened(self._envelopes.get(int(recorded.node))))

    def fault(self, round: int, node: str, reason: str) -> None:
        client = self._partition_of[int(node)]
        self._on_fault(round, client, reason)
        if int(node) in self._lost:
            self._on_lost(round, client, reason)

    def ended(self, round: int) -> None:
        """Of one wave of it (`fedsim.federation.waves`): when a round ends whoever aggregates knows."""

    def examples(self, round: int, node: str) -> int | None:
        """How many examples a node's reply is of; None where it cannot be aggregated."""
        return self._examples.get((round, node))


def _capture(recorded: Recorded, client: int, images: int) -> Capture:
    """Raises: Refused: what the reply holds is not what a client of this federation sends."""
    if recorded.records:
        raise Refused(f"the reply holds {len(recorded.records)} records of arrays, not one")
    for name, value in recorded.received.items():
        if value.dtype != recorded.sent[name].dtype:
            raise Refused(f"{name} is of type {_type(value)}, not {_type(recorded.sent[name])}")
    metrics = recorded.metrics
    if any(key.endswith(f".{EXAMPLES}") for key in metrics):
        raise Refused("the reply holds several records of metrics, not one")
    if EXAMPLES not in metrics:
        raise Refused(f"the reply does not say {EXAMPLES}")
    if metrics[EXAMPLES] != images:
        raise Refused(f"{EXAMPLES} is {_said(metrics[EXAMPLES])}, but the client was to train on {images}")
    length = metrics.get(BYTES)
    if length is not None and (isinstance(length, bool | float | list) or not 0 <= int(length) < 2**53):
        raise Refused(f"{BYTES} is {_said(length)}, which is no length")
    return Capture(
        recorded.round,
        client,
        recorded.sent,
        recorded.received,
        images,
        None if length is None else int(length),
    )


def _opened(envelope: bytes | None) -> Truth | str:
    if envelope is None:
        return "the reply holds no envelope: nobody knows what the client trained on"
    try:
        return unpack(envelope)
    except Exception as fault:  # bytes from elsewhere: whatever a reader says of them
        return f"the reply's envelope cannot be opened: {on_one_line(fault)}"


def _said(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) and not math.isfinite(value) else repr(value)[:40]


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")

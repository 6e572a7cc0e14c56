"""What fedsim's own server makes of what the eavesdropper hears: clients by partition, each with its sealed truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fedsim.federation.client import BYTES
from fedsim.recording import Recorded
from fedsim.truth import Truth, unpack


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
        on_capture: called with each good reply, and with the truth if the client sent it.
        on_fault: called with (round, client, reason) for each client whose reply is unusable.
        on_end: called with the round once all its replies were captured or found to be unusable.
    """

    def __init__(
        self,
        *,
        partition_of: Mapping[int, int],
        envelopes: Mapping[int, bytes],
        on_capture: Callable[[Capture, Truth | None], None],
        on_fault: Callable[[int, int, str], None],
        on_end: Callable[[int], None] = lambda round: None,
    ) -> None:
        self._partition_of = partition_of
        self._envelopes = envelopes
        self._on_capture = on_capture
        self._on_fault = on_fault
        self._on_end = on_end
        self._faulty: set[tuple[int, str]] = set()

    def wants(self, round: int, node: str) -> bool:
        return True

    def add(self, recorded: Recorded) -> None:
        node, metrics = int(recorded.node), recorded.metrics
        length = int(metrics[BYTES]) if BYTES in metrics else None  # type: ignore[arg-type]
        examples = int(metrics["num-examples"])  # type: ignore[arg-type]
        envelope = self._envelopes.get(node)
        client = self._partition_of[node]
        capture = Capture(recorded.round, client, recorded.sent, recorded.received, examples, length)
        self._on_capture(capture, None if envelope is None else unpack(envelope))

    def fault(self, round: int, node: str, reason: str) -> None:
        self._faulty.add((round, node))
        self._on_fault(round, self._partition_of[int(node)], reason)

    def ended(self, round: int) -> None:
        self._on_end(round)

    def unusable(self, round: int, node: str) -> bool:
        """Whether a node's reply cannot be aggregated."""
        return (round, node) in self._faulty

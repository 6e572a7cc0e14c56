"""A Flower grid that shows its nodes in the order of their partitions, asks once more where no good reply came, and
takes out of each reply the envelope that holds the client's truth.

Node ids are random. A strategy that samples from nodes in partition order, and gets its replies in that order, gives
the same table for the same seed. Neither the strategy nor the eavesdropper around it ever sees an envelope.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedsim.federation.client import TRUTH
from fedsim.recording.passing import PassingGrid


class OrderedGrid(PassingGrid):
    """Wraps a grid; `partition_of` maps its node ids to partitions (the first query asks for it), `envelopes` to the
    truth that each node's last reply held, as bytes.

    Args:
        grid: Flower's own.
        nodes: how many nodes to wait for.
        deadline: seconds that one attempt of a round may take.
    """

    def __init__(self, grid: Grid, *, nodes: int, deadline: float) -> None:
        super().__init__(grid)
        self._deadline = deadline
        self.partition_of: dict[int, int] = {}
        self.envelopes: dict[int, bytes] = {}
        while len(ids := list(grid.get_node_ids())) < nodes:
            time.sleep(0.05)
        queries = [
            Message(RecordDict({"config": ConfigRecord()}), dst_node_id=node, message_type=MessageType.QUERY)
            for node in ids
        ]
        for reply in grid.send_and_receive(queries, timeout=deadline):
            if reply.has_error():
                raise RuntimeError(f"a client could not be reached: {reply.error.reason}")
            record = reply.content.metric_records["node"]
            self.partition_of[reply.metadata.src_node_id] = int(record["partition"])  # type: ignore[arg-type]

    def first(self, clients: int) -> OrderedGrid:
        """The same grid restricted to the first `clients` partitions."""
        view = object.__new__(OrderedGrid)
        view._grid, view._deadline = self._grid, self._deadline
        view.partition_of = {node: part for node, part in self.partition_of.items() if part < clients}
        view.envelopes = {}
        return view

    def get_node_ids(self) -> list[int]:
        return sorted(self.partition_of, key=self.partition_of.__getitem__)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send, wait until the deadline, ask once more where there was no reply or an error; replies by partition."""
        deadline = self._deadline if timeout is None else min(timeout, self._deadline)
        pending = {message.metadata.dst_node_id: message for message in messages}
        replies: dict[int, Message] = {}
        for _attempt in range(2):
            if not pending:
                break
            again = {node: _copy(message) for node, message in pending.items()}
            for reply in self._grid.send_and_receive(pending.values(), timeout=deadline):
                node = reply.metadata.src_node_id
                replies[node] = reply
                if not reply.has_error():
                    again.pop(node, None)
            pending = again
        self.envelopes.clear()
        for node, reply in replies.items():
            envelope = reply.content.pop(TRUTH, None) if reply.has_content() else None
            if isinstance(envelope, ConfigRecord):
                sealed = envelope.get("safetensors")
                self.envelopes[node] = sealed if isinstance(sealed, bytes) else b""
        return [replies[node] for node in self.get_node_ids() if node in replies]


def _copy(message: Message) -> Message:
    return Message(
        message.content, dst_node_id=message.metadata.dst_node_id, message_type=message.metadata.message_type
    )

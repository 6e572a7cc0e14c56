"""A Flower grid that shows its nodes in the order of their partitions, asks once more where no good reply came, and
takes out of each reply the envelope that holds the client's truth.

Node ids are random. A strategy that samples from nodes in partition order, and gets its replies in that order, gives
the same table for the same seed. Neither the strategy nor the eavesdropper around it ever sees an envelope.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedsim.federation.client import TRUTH
from fedsim.federation.overdue import GRACE
from fedsim.federation.waves import WAVE, waves
from fedsim.recording.passing import PassingGrid
from fedsim.recording.reasons import died, passing

START_SECONDS = 300.0
"""What the clients' processes may take to start, and to start again after one died."""


class Unanswered(Exception):
    """No client answered at all; the text says for how long nobody did."""


class OrderedGrid(PassingGrid):
    """Wraps a grid; `partition_of` maps its node ids to partitions (the first query asks for it), `envelopes` to the
    truth that each node's last reply held, as bytes. `lost` are the nodes that the last exchange lost: their process
    died or hung, or nothing was heard of them.

    Args:
        grid: Flower's own.
        nodes: how many nodes to wait for.
        at_once: says how many clients are served at the same time, once they have answered.
        patience: seconds that the first answer of the nodes may take.

    Raises:
        Unanswered: it took longer.
    """

    def __init__(
        self, grid: Grid, *, nodes: int, at_once: Callable[[], int] = lambda: 1, patience: float = START_SECONDS
    ) -> None:
        super().__init__(grid)
        self.at_once = at_once
        self._patience = patience
        self._deadline = patience
        self.partition_of: dict[int, int] = {}
        self.envelopes: dict[int, bytes] = {}
        self.lost: set[int] = set()
        self._in_vain: set[int] = set()
        over = time.monotonic() + patience
        while len(ids := list(grid.get_node_ids())) < nodes and time.monotonic() < over:
            time.sleep(0.05)
        for _attempt in range(2):
            for wave in waves([node for node in ids if node not in self.partition_of], WAVE):
                heard = len(self.partition_of)
                for reply in self._grid.send_and_receive(map(_query, wave), timeout=patience):
                    if not reply.has_error():
                        record = reply.content.metric_records["node"]
                        self.partition_of[reply.metadata.src_node_id] = int(record["partition"])  # type: ignore[arg-type]
                if len(self.partition_of) == heard:  # nobody is there
                    break
        if len(self.partition_of) < nodes:
            some = f"{len(self.partition_of)} of {nodes} clients"
            raise Unanswered(f"{some} answered the first query within {2 * patience / 60:g} minutes")

    def first(self, clients: int, deadline: float) -> OrderedGrid:
        """The same grid restricted to the first `clients` partitions.

        Args:
            deadline: seconds that each may take for a round.
        """
        view = object.__new__(OrderedGrid)
        view._grid, view.at_once, view._patience = self._grid, self.at_once, self._patience
        view._deadline = deadline
        view.partition_of = {node: part for node, part in self.partition_of.items() if part < clients}
        view.envelopes, view.lost, view._in_vain = {}, set(), self._in_vain
        return view

    def get_node_ids(self) -> list[int]:
        return sorted(self.partition_of, key=self.partition_of.__getitem__)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send, wait, and ask once more where there was no reply or an error; replies by partition.

        Whose process died is asked once more alone, one after the other: another's hunger may have taken its memory.
        Where that was in vain once it is not done again.
        """
        asked = {message.metadata.dst_node_id: message for message in messages}
        replies = self._exchange(asked, timeout)
        failed = {node: asked[node] for node in asked if node not in replies or replies[node].has_error()}
        alone = {node for node in failed if node in replies and died(_reason(replies[node]))}
        replies |= self._exchange({n: _copy(m) for n, m in failed.items() if n not in alone}, timeout)
        for node in sorted(alone - self._in_vain):
            replies |= self._exchange({node: _copy(failed[node])}, timeout)
            if died(_reason(replies[node])):
                self._in_vain.add(node)
        self.lost.clear()
        self.lost |= {n for n in asked if n not in replies or (replies[n].has_error() and passing(_reason(replies[n])))}
        self.envelopes.clear()
        for node, reply in replies.items():
            envelope = reply.content.pop(TRUTH, None) if reply.has_content() else None
            if isinstance(envelope, ConfigRecord):
                sealed = envelope.get("safetensors")
                self.envelopes[node] = sealed if isinstance(sealed, bytes) else b""
        return [replies[node] for node in self.get_node_ids() if node in replies]

    def _exchange(self, messages: Mapping[int, Message], timeout: float | None) -> dict[int, Message]:
        """Send, and wait for as long as the nodes may take, each its deadline and once more; replies by node."""
        turns = -(-len(messages) // max(1, self.at_once()))
        wait = self._patience + 2 * turns * (self._deadline + GRACE)
        wait = wait if timeout is None else min(wait, timeout)
        if not messages or wait <= 0:
            return {}
        found = self._grid.send_and_receive(list(messages.values()), timeout=wait)
        return {reply.metadata.src_node_id: reply for reply in found}


def _query(node: int) -> Message:
    return Message(RecordDict({"config": ConfigRecord()}), dst_node_id=node, message_type=MessageType.QUERY)


def _reason(reply: Message) -> str:
    return str(reply.error.reason) if reply.has_error() else ""


def _copy(message: Message) -> Message:
    return Message(
        message.content, dst_node_id=message.metadata.dst_node_id, message_type=message.metadata.message_type
    )

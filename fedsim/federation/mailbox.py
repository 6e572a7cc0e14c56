"""Flower's in-memory server, told which of its nodes a message waits for.

It asks for the messages of one node after the other, again and again, and for each goes through all messages that are
under way: of ten thousand nodes and five hundred messages that is 45 seconds of a processor for each time around.
"""

from __future__ import annotations

from typing import Any

from flwr.app import Message
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState


def keep_in_order() -> None:
    """For the rest of this process: what Flower's server answers stays the same."""
    InMemoryLinkState.store_message_ins = Ordered.store_message_ins  # type: ignore[method-assign]
    InMemoryLinkState.get_message_ins = Ordered.get_message_ins  # type: ignore[method-assign]


_store, _get = InMemoryLinkState.store_message_ins, InMemoryLinkState.get_message_ins


class Ordered(InMemoryLinkState):
    """Goes through the messages only for a node that one may wait for."""

    def store_message_ins(self, message: Message) -> str | None:
        with self.lock:
            stored = _store(self, message)
            if stored is not None:
                _expected(self).add(message.metadata.dst_node_id)
        return stored

    def get_message_ins(self, node_id: int, limit: int | None, **how: Any) -> list[Message]:
        with self.lock:
            if node_id not in _expected(self):
                return []
            found = _get(self, node_id, limit, **how)
            if not found and not any(how.values()):  # of no run at all
                _expected(self).discard(node_id)
        return found


def _expected(state: InMemoryLinkState) -> set[int]:
    """The nodes that were sent something since nothing was left for them."""
    expected: set[int] = vars(state).setdefault("fedsim_expected", set())
    return expected

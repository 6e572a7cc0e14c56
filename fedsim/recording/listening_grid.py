"""A Flower grid that lets an ear hear what goes through it, and is otherwise the grid that it wraps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedsim.recording.ear import Ear
from fedsim.recording.passing import PassingGrid


class ListeningGrid(PassingGrid):
    """Hands on every message and every reply, whichever way a strategy sends them.

    Args:
        grid: Flower's own, or any other.
        ear: hears copies.
    """

    def __init__(self, grid: Grid, ear: Ear) -> None:
        super().__init__(grid)
        self._ear = ear

    def send_and_receive(self, messages: Iterable[Message], **how: Any) -> Iterable[Message]:
        messages = list(messages)
        asked = self._ear.asked(messages)
        replies = list(self._grid.send_and_receive(messages, **how))
        self._ear.answered(replies, final=asked)
        return replies

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self._ear.asked(messages)
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(self._grid.pull_messages(message_ids))
        self._ear.answered(replies, final=[])
        return replies

    def get_nodes(self) -> Iterable[Any]:
        return self._grid.get_nodes()

    def __getattr__(self, name: str) -> Any:
        if name in ("_grid", "_ear"):  # not yet there, e.g. while it is copied
            raise AttributeError(name)
        return getattr(self._grid, name)

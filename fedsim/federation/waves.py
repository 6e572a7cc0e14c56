"""A round in waves: so many clients are asked at once, and of those asked later nothing is in memory yet.

Flower's server asks all clients of a round and keeps all replies until they are aggregated. Here it is handed replies
one by one, and the next wave goes out once the one before is used up. Two things ask for it: for each message that
Flower fetches it looks through all that are under way (of ten thousand at once half were never answered), and replies
weigh as much as models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedsim.recording.passing import PassingGrid, PassingStrategy

T = TypeVar("T")

WAVE = 200
"""Messages that are under way at once, at most."""

BYTES = 2**28
"""What the replies of a wave may weigh together, where that leaves enough clients to keep all processors busy."""

BUSY = 4
"""How many clients a wave has at least for each that is served at the same time: at its end some wait for the last."""


def waves(whole: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (whole[start : start + size] for start in range(0, len(whole), size))


class InWaves(PassingStrategy):
    """Runs a strategy over a grid that answers wave by wave (`Waves`). What aggregates has to take replies as they
    come: whoever makes a list of them has them all in memory.

    Args:
        at_once: says how many clients are served at the same time.
    """

    def __init__(self, strategy: Strategy, *, at_once: Callable[[], int]) -> None:
        super().__init__(strategy)
        self._at_once = at_once

    def start(self, grid: Grid, *args: Any, **kwargs: Any) -> Result:
        return self.strategy.start(Waves(grid, at_once=self._at_once), *args, **kwargs)


class Waves(PassingGrid):
    """Wraps a grid; each wave is an exchange of its own with it, and is sent once the replies of the one before are
    used up."""

    def __init__(self, grid: Grid, *, at_once: Callable[[], int]) -> None:
        super().__init__(grid)
        self._at_once = at_once

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Replies in the order of their waves; what is not taken is not asked for.

        Args:
            timeout: seconds for all waves together.
        """
        over = math.inf if timeout is None else time.monotonic() + timeout
        asked = list(messages)
        for wave in waves(asked, self._size(asked)):
            replies = list(self._grid.send_and_receive(wave, timeout=over - time.monotonic()))
            while replies:  # none is held on to once it was taken
                yield replies.pop(0)

    def _size(self, messages: Sequence[Message]) -> int:
        """How many messages make a wave: a reply weighs as much as what was sent."""
        weight = max((_weight(message) for message in messages[:1]), default=0)
        return min(WAVE, max(BUSY * self._at_once(), BYTES // max(1, weight)))


def _weight(message: Message) -> int:
    return sum(len(array.data) for record in message.content.array_records.values() for array in record.values())

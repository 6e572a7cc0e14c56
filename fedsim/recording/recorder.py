"""Who is told what an eavesdropper hears: a store on disk, or anything else that has these methods."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Protocol, runtime_checkable

from fedsim.errors import BadInput, on_one_line
from fedsim.recording.recorded import Recorded
from fedsim.recording.store import Store

LOG = logging.getLogger("flwr")  # where whoever runs a Flower app looks


@runtime_checkable
class Recorder(Protocol):
    """What an eavesdropper calls, of each round's nodes in the order in which they were asked."""

    def wants(self, round: int, node: str) -> bool:
        """Whether a node that is being asked is listened to at all; asked once for each node and round."""

    def add(self, recorded: Recorded) -> None:
        """A good reply."""

    def fault(self, round: int, node: str, reason: str) -> None:
        """A node of which there is nothing to record, and why."""

    def ended(self, round: int) -> None:
        """All nodes that were asked together have been told of."""


class Keeper:
    """Keeps in a store what it is told to keep. A full disk or a lost folder costs records, never the federation.

    Args:
        path: of a new store, which is made.
        rounds: the rounds to keep; None for all.
        nodes: at most how many nodes of each round, those asked first; or the ids of the nodes; None for all.
        max_bytes: the most that the records may take; None for no limit.

    Raises:
        BadInput: a limit is none, or there can be no new store.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        rounds: Collection[int] | None = None,
        nodes: int | Collection[int | str] | None = None,
        max_bytes: int | None = None,
    ) -> None:
        if rounds is not None and (isinstance(rounds, int | str) or not all(isinstance(one, int) for one in rounds)):
            raise BadInput(f"rounds = {rounds!r}: a collection of round numbers is accepted, e.g. [1, 5]")
        if isinstance(nodes, str) or (isinstance(nodes, int) and nodes < 1):
            raise BadInput(f"nodes = {nodes!r}: a number of at least 1 is accepted, or a collection of node ids")
        self.store = Store.create(path, max_bytes=max_bytes)
        self._rounds = None if rounds is None else frozenset(rounds)
        self._most = nodes if isinstance(nodes, int) else None
        self._nodes = None if nodes is None or isinstance(nodes, int) else frozenset(map(str, nodes))
        self._taken: dict[int, set[str]] = {}
        self._kept, self._faults = 0, 0

    def wants(self, round: int, node: str) -> bool:
        if self._rounds is not None and round not in self._rounds:
            return False
        if self._nodes is not None:
            return node in self._nodes
        taken = self._taken.setdefault(round, set())
        if self._most is not None and len(taken | {node}) > self._most:
            return False
        taken.add(node)
        return True

    def add(self, recorded: Recorded) -> None:
        try:
            self.store.add(recorded, sound=True)  # or there would have been a fault in its place
        except BadInput as error:
            self.fault(recorded.round, recorded.node, f"not recorded: {error}")
        except OSError as error:
            self.fault(recorded.round, recorded.node, f"not recorded: {error.filename}: {error.strerror}")
        except Exception as error:  # e.g. a type of numbers that the format does not know
            self.fault(recorded.round, recorded.node, f"not recorded: {on_one_line(error)}")
        else:
            self._kept += 1

    def fault(self, round: int, node: str, reason: str) -> None:
        self._faults += 1
        LOG.warning("fedsim: round %s, node %s: %s", round, node, reason)
        try:
            self.store.fault(round, node, reason)
        except OSError:  # it was said aloud; a disk that is full takes no more
            LOG.warning("fedsim: %s takes no more files", self.store.path)

    def ended(self, round: int) -> None:
        LOG.info("fedsim: %s replies recorded in %s, %s not", self._kept, self.store.path, self._faults)

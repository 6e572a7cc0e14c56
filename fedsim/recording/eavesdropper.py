"""The adversary at the server: a wrapper around any Flower strategy that writes down what the server received."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedsim.errors import BadInput
from fedsim.recording.ear import Ear
from fedsim.recording.listening_grid import ListeningGrid
from fedsim.recording.passing import PassingStrategy
from fedsim.recording.recorder import Keeper, Recorder

OWN = ("strategy", "_ear")


class Eavesdropper(PassingStrategy):
    """Record what is sent to each client and what comes back; change nothing.

        strategy = fedsim.Eavesdropper(FedAvg(...), store="observations/")

    The wrapped strategy runs as it would without: its own `start`, the same messages, the same replies, the same random
    numbers. `start` hands it a grid that listens; where another strategy wraps this one, and calls its hooks instead,
    the hooks listen, and hear what that strategy hands on: to record what arrived, this class goes around a wrapper
    that clips. Attributes that it does not have are those of the wrapped strategy.

    What cannot be recorded (a client that failed, NaN, arrays that were never sent, a full disk) has a reason in the
    store and a line in the log, and stops nothing.

    Args:
        strategy: any strategy of Flower's Message API; wrappers for differential privacy included.
        store: a new folder for the records (`Store.create`); or an own `Recorder`, which keeps what it likes.
        rounds: the rounds to record; None for all.
        nodes: at most how many nodes of each round, those asked first, or the ids of nodes; None for all.
        max_bytes: the most that the records may take, reasons of faults apart; what would exceed it is not recorded.

    Raises:
        BadInput: the folder holds something, or cannot be made; a limit is none; the strategy is of Flower's older API.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        store: str | Path | Recorder,
        rounds: Collection[int] | None = None,
        nodes: int | Collection[int | str] | None = None,
        max_bytes: int | None = None,
    ) -> None:
        if not callable(getattr(strategy, "start", None)) or not callable(getattr(strategy, "aggregate_train", None)):
            known = f"{type(strategy).__module__}.{type(strategy).__name__}"
            raise BadInput(f"{known} is no strategy of Flower's Message API (flwr.serverapp.strategy)")
        super().__init__(strategy)
        if isinstance(store, str | Path):
            store = Keeper(store, rounds=rounds, nodes=nodes, max_bytes=max_bytes)
        elif (rounds, nodes, max_bytes) != (None, None, None):
            raise ValueError("a recorder of your own decides for itself what it keeps: no rounds, nodes, max_bytes")
        self._ear = Ear(store)

    def start(self, grid: Grid, *args: Any, **kwargs: Any) -> Result:
        result = self.strategy.start(ListeningGrid(grid, self._ear), *args, **kwargs)
        self._ear.answered([], final=None)  # of what was pushed and never pulled
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        self._ear.asked(messages, server_round)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        self._ear.answered(replies, final=None)
        return self.strategy.aggregate_train(server_round, replies)

    def __getattr__(self, name: str) -> Any:
        if name in OWN:  # not yet there, e.g. while it is copied
            raise AttributeError(name)
        return getattr(self.strategy, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN or hasattr(type(self), name):
            super().__setattr__(name, value)
        else:
            setattr(self.strategy, name, value)

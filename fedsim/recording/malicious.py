"""A server that sends another model than it should: a wrapper around any Flower strategy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsim.recording.passing import PassingStrategy

Change = Callable[[int, dict[str, Tensor]], dict[str, Tensor]]
"""What is sent in a round instead of a state dict."""


class MaliciousServer(PassingStrategy):
    """Send clients a changed model in some rounds.

        strategy = fedsim.Eavesdropper(fedsim.MaliciousServer(FedAvg(...), change, rounds=[3]), store="observations/")

    What clients made of a changed model would spoil the honest one, so that it is left as it was: such a round teaches
    it nothing.

    Args:
        strategy: any strategy of Flower's Message API; it configures each round with what is sent.
        change: called with the round and the honest state; what it returns has the same entries.
        rounds: those in which the model is changed.
    """

    def __init__(self, strategy: Strategy, change: Change, *, rounds: Collection[int]) -> None:
        super().__init__(strategy)
        self._change = change
        self._rounds = frozenset(rounds)
        self._honest: ArrayRecord | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if server_round in self._rounds:
            self._honest = arrays
            arrays = ArrayRecord(self._change(server_round, dict(arrays.to_torch_state_dict())))
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = self.strategy.aggregate_train(server_round, replies)
        return (self._honest if server_round in self._rounds else arrays), metrics

"""What fedsim's own server does beside listening: it draws its clients by the seed, and applies its defense."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsim.federation.applied import Applied
from fedsim.federation.listener import EXAMPLES
from fedsim.random import seed_for
from fedsim.recording.passing import PassingStrategy


class Served(PassingStrategy):
    """Hand a strategy that averages weights what it expects, and of its mean make the next global state.

    Args:
        strategy: any Flower strategy; it aggregates weights. It is handed replies while they come in, in the order in
            which they come (`OrderedGrid`: by partition), and may go through them once.
        partition_of: the partition of each node; clients are asked in this order.
        applied: what the server applies: the inner strategy is handed each reply as weights (of FedSGD those that the
            gradient implies), and what it makes of them becomes the next global state.
        seed: seeds the inner strategy's sampling of clients, which draws from Python's global generator.
        salt: what the clients are told to salt their own seed with, in hexadecimal digits; empty for none.
        examples: how many examples a node's reply in a round is of, or None where it cannot be used; such a reply goes
            no further, since one NaN would spread to the global model.
        on_end: called with each round once all its replies were aggregated.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        partition_of: dict[int, int],
        applied: Applied,
        seed: int,
        salt: str = "",
        examples: Callable[[int, str], int | None],
        on_end: Callable[[int], None] = lambda round: None,
    ) -> None:
        super().__init__(strategy)
        self._partition_of = partition_of
        self._applied = applied
        self._seed = seed
        self._salt = salt
        self._examples = examples
        self._on_end = on_end
        self._sent: dict[str, Tensor] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._sent = dict(arrays.to_torch_state_dict())
        random.seed(seed_for(self._seed, "sampling", round=server_round))
        config["salt"] = self._salt  # here, since Flower writes what a strategy is started with into its log
        messages = self.strategy.configure_train(server_round, arrays, config, grid)
        return sorted(messages, key=lambda message: self._partition_of[message.metadata.dst_node_id])

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        weights: list[float] = []
        arrays, metrics = self.strategy.aggregate_train(server_round, self._usable(server_round, replies, weights))
        self._on_end(server_round)
        if arrays is None:
            return None, metrics
        state = self._applied.state(self._sent, arrays.to_torch_state_dict(), weights, server_round)
        return ArrayRecord(state), metrics

    def _usable(self, server_round: int, replies: Iterable[Message], weights: list[float]) -> Iterator[Message]:
        """Those that can be aggregated, as weights, while they come in; `weights` gains each one's examples."""
        for reply in replies:
            count = self._examples(server_round, str(reply.metadata.src_node_id))
            if count is None:
                continue
            [record] = reply.content.array_records.values()
            received = dict(zip(self._named(record), record.to_torch_state_dict().values(), strict=True))
            for name in list(reply.content):  # whatever else the client sent: strategies want all replies alike
                del reply.content[name]
            reply.content["arrays"] = ArrayRecord(self._applied.weights(self._sent, received))
            reply.content["metrics"] = MetricRecord({EXAMPLES: count})
            weights.append(count)
            yield reply

    def _named(self, record: ArrayRecord) -> Iterable[str]:
        """A list of arrays, as clients of Flower's older API return, is in the order of what was sent (see `Ear`)."""
        return record if record.keys() == self._sent.keys() else self._sent

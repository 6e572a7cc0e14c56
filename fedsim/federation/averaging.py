"""Federated averaging that adds up replies as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg


class RunningAverage(FedAvg):
    """Flower's FedAvg, in the memory of one model whatever the number of clients.

    Flower multiplies each reply by its share of all examples, and adds up. So does this, in the same order and to the
    same bits, with the share of all that were *asked*, which is known beforehand. Where some of them sent nothing that
    can be used, the sum is scaled up at the end by what is missing.

    Args:
        examples_of: how many examples a node trains on in a round, which is what a usable reply says of itself.
        how: of `FedAvg`.
    """

    def __init__(self, *, examples_of: Callable[[int], int], **how: Any) -> None:
        super().__init__(**how)
        self._examples_of = examples_of
        self._asked = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self._asked = sum(self._examples_of(message.metadata.dst_node_id) for message in messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The weighted mean of the replies, each of which is good and has one record of arrays and one of metrics."""
        total: dict[str, Any] = {}
        arrived = 0
        for reply in replies:
            [arrays], [metrics] = reply.content.array_records.values(), reply.content.metric_records.values()
            examples = int(metrics[self.weighted_by_key])  # type: ignore[arg-type]
            for name, array in arrays.items():
                share = array.numpy() * (examples / self._asked)
                if name in total:
                    total[name] += share
                else:
                    total[name] = share
            arrived += examples
        if not arrived:
            return None, None
        if arrived != self._asked:
            total = {name: value * (self._asked / arrived) for name, value in total.items()}
        return ArrayRecord({name: Array(np.asarray(value)) for name, value in total.items()}), MetricRecord()

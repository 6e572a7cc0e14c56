"""The adversary at the server: a wrapper around any Flower strategy that writes down what the server received."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsim.federation.applied import Applied
from fedsim.federation.client import BYTES, TRUTH
from fedsim.random import seed_for
from fedsim.truth import Truth, unpack


@dataclass(frozen=True)
class Capture:
    """One client's reply in one round: what the server sent, what came back, and how many bytes that would be."""

    round: int
    client: int
    sent: dict[str, Tensor]
    received: dict[str, Tensor]
    examples: int
    bytes: int | None = None


class Eavesdropper(Strategy):
    """Record each reply before the inner strategy sees it, and hand on what that strategy expects.

    Args:
        strategy: any Flower strategy; it aggregates weights.
        partition_of: the partition of each node.
        applied: what the server applies: the inner strategy is handed each reply as weights (of FedSGD those that the
            gradient implies), and what it makes of them becomes the next global state.
        seed: seeds the inner strategy's sampling of clients, which draws from Python's global generator.
        salt: what the clients are told to salt their own seed with, in hexadecimal digits; empty for none.
        on_capture: called with each good reply, and with the truth if the client sent it.
        on_fault: called with (round, client, reason) for each client whose reply is unusable; such a reply goes no
            further, since one NaN would spread to the global model.
        on_end: called with the round once all its replies were captured or found to be unusable.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        partition_of: dict[int, int],
        applied: Applied,
        seed: int,
        salt: str = "",
        on_capture: Callable[[Capture, Truth | None], None],
        on_fault: Callable[[int, int, str], None],
        on_end: Callable[[int], None] = lambda round: None,
    ) -> None:
        self.strategy = strategy
        self._partition_of = partition_of
        self._applied = applied
        self._seed = seed
        self._salt = salt
        self._on_capture = on_capture
        self._on_fault = on_fault
        self._on_end = on_end
        self._sent: dict[str, Tensor] = {}
        self._asked: set[int] = set()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._sent = dict(arrays.to_torch_state_dict())
        random.seed(seed_for(self._seed, "sampling", round=server_round))
        config["salt"] = self._salt  # here, since Flower writes what a strategy is started with into its log
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        self._asked = {self._partition_of[message.metadata.dst_node_id] for message in messages}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        by_client = {self._partition_of[reply.metadata.src_node_id]: reply for reply in replies}
        usable: list[Message] = []
        weights: list[float] = []
        for client in sorted(self._asked | by_client.keys()):
            reply = by_client.get(client)
            if reply is None:
                self._on_fault(server_round, client, "no reply before the round's deadline")
                continue
            if reply.has_error():
                self._on_fault(server_round, client, f"the client raised {_reason(reply)}")
                continue
            envelope = reply.content.pop(TRUTH, None)
            fault = self._fault(reply)
            if fault:
                self._on_fault(server_round, client, fault)
                continue
            received = dict(reply.content.array_records["arrays"].to_torch_state_dict())
            metrics = reply.content.metric_records["metrics"]
            examples = int(metrics["num-examples"])  # type: ignore[arg-type]
            length = int(metrics[BYTES]) if BYTES in metrics else None  # type: ignore[arg-type]
            truth = None if envelope is None else unpack(envelope["safetensors"])  # type: ignore[arg-type]
            self._on_capture(Capture(server_round, client, self._sent, received, examples, length), truth)
            reply.content["arrays"] = ArrayRecord(self._applied.weights(self._sent, received))
            usable.append(reply)
            weights.append(examples)
        self._on_end(server_round)
        arrays, metrics = self.strategy.aggregate_train(server_round, usable)
        if arrays is None:
            return None, metrics
        state = self._applied.state(self._sent, arrays.to_torch_state_dict(), weights, server_round)
        return ArrayRecord(state), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        self.strategy.summary()

    def _fault(self, reply: Message) -> str | None:
        """Why a reply cannot be aggregated, or None."""
        if "arrays" not in reply.content.array_records:
            return "the reply holds no arrays"
        received = reply.content.array_records["arrays"].to_torch_state_dict()
        if received.keys() != self._sent.keys():
            return "the reply's arrays are not those of the model"
        for name, value in received.items():
            if value.shape != self._sent[name].shape:
                return f"{name} has shape {tuple(value.shape)}, not {tuple(self._sent[name].shape)}"
            if value.is_floating_point() and not torch.isfinite(value).all():
                return f"{name} holds NaN or infinity"
        return None


def _reason(reply: Message) -> str:
    """What a client raised, in one line: the end of its own traceback.

    Ray reports a traceback in colour; Flower raises an exception of its own from the client's, and puts type and text
    of the whole around it.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(reply.error.reason))
    text = re.sub(r"^<class '[^>]*>:<'(.*)'>$", r"\1", text, flags=re.DOTALL)
    parts = text.split("The above exception was the direct cause of the following exception:")
    own = parts[-2] if len(parts) > 1 and "ClientAppException" in parts[-1] else parts[-1]
    lines = [line for line in own.splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith(('  File "', "ray::", "Traceback"))]
    said = itertools.dropwhile(lambda line: line.startswith("    "), lines[frames[-1] + 1 :] if frames else lines)
    return " ".join(" ".join(said).split())[:300] or "something that says nothing of itself"

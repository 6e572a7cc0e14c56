"""Hand-made Flower messages, so that strategies' hooks run without a simulation."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2), "count": torch.tensor(7)}


def trained(node: int, state=None) -> dict[str, torch.Tensor]:
    """What node `node` makes of a state: other numbers for each."""
    state = STATE if state is None else state
    return {name: (value + node / 8 if value.is_floating_point() else value + 1) for name, value in state.items()}


class Nodes(Grid):
    """A grid of nodes that reply in no order; `answers` says otherwise for some: (node, round) -> content or reason.

    Attributes:
        asked: (node, round, content) of every message, as it arrived.
    """

    run = None

    def __init__(self, nodes=(30, 10, 20), answers=None):
        self.nodes, self.answers, self.asked, self.waiting = list(nodes), answers or {}, [], {}

    def get_node_ids(self):
        return self.nodes

    def set_run(self, run):
        self.run = run

    def create_message(self, *args, **kwargs):
        return Message(*args, **kwargs)

    def send_and_receive(self, messages, *, timeout=None):
        ids = self.push_messages(messages)
        return self.pull_messages(ids)

    def push_messages(self, messages):
        ids = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"{len(self.asked)}-{number}"
            self.waiting[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids):
        replies = [self.reply(self.waiting.pop(one)) for one in message_ids if one in self.waiting]
        return [reply for reply in reversed(replies) if reply is not None]

    def reply(self, message):
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        config = dict(next(iter(message.content.config_records.values()), {}))
        round = config.get("server-round", 1)
        self.asked.append((node, round, message.content))
        if kind == "evaluate":
            return Message(RecordDict({"metrics": MetricRecord({"num-examples": 3, "loss": 0.5})}), reply_to=message)
        answer = self.answers.get((node, round))
        if answer == "silence":
            return None
        if isinstance(answer, str):
            return Message(Error(code=1, reason=answer), reply_to=message)
        if answer is None:
            [arrays] = message.content.array_records.values()
            answer = content(node, trained(node, arrays.to_torch_state_dict()))
        return Message(answer, reply_to=message)


def content(node: int, arrays, key: str = "arrays", **metrics) -> RecordDict:
    held = {"num-examples": node, "loss": node / 3, **metrics}
    return RecordDict({key: ArrayRecord(arrays), "metrics": MetricRecord(held)})


def request(node: int, arrays=STATE, key: str = "arrays", kind: str = "train", **config) -> Message:
    records = {key: ArrayRecord(arrays), "config": ConfigRecord(config)}
    return Message(RecordDict(records), dst_node_id=node, message_type=kind)

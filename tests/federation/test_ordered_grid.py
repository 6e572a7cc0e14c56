"""The grid shows nodes by partition, and asks once more where a good reply is missing."""

from __future__ import annotations

import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedsim.federation.grid import OrderedGrid

PARTITION = {7: 2, 8: 0, 9: 1}


class Flaky:
    """A grid whose node 9 raises, and whose node 7 is silent, the first `times` times."""

    def __init__(self, times: int) -> None:
        self.times, self.rounds = times, []

    def get_node_ids(self):
        return list(PARTITION)

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        if messages[0].metadata.message_type == "query":
            return [
                Message(
                    RecordDict({"node": MetricRecord({"partition": PARTITION[m.metadata.dst_node_id]})}), reply_to=m
                )
                for m in messages
            ]
        self.rounds.append([message.metadata.dst_node_id for message in messages])
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            if len(self.rounds) > self.times or node == 8:
                replies.append(Message(RecordDict(), reply_to=message))
            elif node == 9:
                replies.append(Message(Error(code=1, reason="boom"), reply_to=message))
        return replies


@pytest.fixture(autouse=True)
def _inside_a_flower_task(monkeypatch):
    for part in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, part, 1)


def _ask(times):
    inner = Flaky(times)
    grid = OrderedGrid(inner, nodes=3, deadline=1.0)
    messages = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
    return grid, inner, grid.send_and_receive(messages)


def test_nodes_and_replies_come_by_partition():
    grid, inner, replies = _ask(0)
    assert grid.get_node_ids() == [8, 9, 7]
    assert [reply.metadata.src_node_id for reply in replies] == [8, 9, 7]
    assert len(inner.rounds) == 1
    assert grid.first(2).get_node_ids() == [8, 9]


def test_a_passing_fault_is_healed_by_the_second_attempt():
    _, inner, replies = _ask(1)
    assert sorted(inner.rounds[1]) == [7, 9]
    assert not any(reply.has_error() for reply in replies)
    assert len(replies) == 3


def test_a_lasting_fault_is_reported_after_two_attempts():
    _, inner, replies = _ask(5)
    assert len(inner.rounds) == 2
    assert [reply.has_error() for reply in replies] == [False, True]  # node 7 stays silent

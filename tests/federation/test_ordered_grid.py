"""The grid shows nodes by partition, and asks once more where a good reply is missing."""

from __future__ import annotations

import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedsim.federation.grid import OrderedGrid, Unanswered

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


def _ask(inner):
    grid = OrderedGrid(inner, nodes=3)
    messages = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
    return grid, inner, grid.send_and_receive(messages)


def test_nodes_and_replies_come_by_partition():
    grid, inner, replies = _ask(Flaky(0))
    assert grid.get_node_ids() == [8, 9, 7]
    assert [reply.metadata.src_node_id for reply in replies] == [8, 9, 7]
    assert len(inner.rounds) == 1
    assert grid.first(2, 1.0).get_node_ids() == [8, 9]


def test_a_passing_fault_is_healed_by_the_second_attempt():
    _, inner, replies = _ask(Flaky(1))
    assert sorted(inner.rounds[1]) == [7, 9]
    assert not any(reply.has_error() for reply in replies)
    assert len(replies) == 3


def test_the_first_query_goes_out_in_waves(monkeypatch):
    """Flower takes a time that grows with the square of what is under way."""
    monkeypatch.setattr("fedsim.federation.grid.WAVE", 2)
    asked = []

    class Counting(Flaky):
        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            asked.append(len(messages))
            return super().send_and_receive(messages)

    assert OrderedGrid(Counting(0), nodes=3).get_node_ids() == [8, 9, 7]
    assert asked == [2, 1]


def test_a_limit_that_is_over_asks_nobody():
    grid, inner, _ = _ask(Flaky(0))
    messages = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
    assert grid.send_and_receive(messages, timeout=0) == []
    assert len(inner.rounds) == 1


DIED = "<class 'ray.exceptions.ActorDiedError'>:<'The actor died unexpectedly before finishing this task.'>"


class Dying(Flaky):
    """A grid whose nodes 7 and 9 die where they are asked together, and node 9 alone, too."""

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        if messages[0].metadata.message_type == "query":
            return super().send_and_receive(messages)
        asked = [message.metadata.dst_node_id for message in messages]
        self.rounds.append(asked)
        dies = {7, 9} if len(asked) > 1 else {9}
        return [
            Message(Error(code=0, reason=DIED), reply_to=message)
            if message.metadata.dst_node_id in dies
            else Message(RecordDict(), reply_to=message)
            for message in messages
        ]


def test_whose_process_died_is_asked_again_alone_until_that_was_in_vain():
    grid, inner, replies = _ask(Dying(0))
    assert inner.rounds == [[8, 9, 7], [7], [9]]
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert grid.lost == {9}
    messages = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
    grid.first(3, 1.0).send_and_receive(messages)
    assert inner.rounds[3:] == [[8, 9, 7], [7]]


class Silent(Flaky):
    """A grid of which `nodes` alone answer the first query."""

    def __init__(self, nodes):
        super().__init__(0)
        self.nodes = nodes

    def send_and_receive(self, messages, *, timeout=None):
        return [r for r in super().send_and_receive(messages) if r.metadata.src_node_id in self.nodes]


@pytest.mark.parametrize(("nodes", "heard"), [((), "0 of 3"), ((8, 9), "2 of 3")])
def test_no_answer_to_the_first_query_has_a_limit_and_one_line(nodes, heard):
    with pytest.raises(Unanswered, match=f"^{heard} clients answered the first query within 0.1 minutes$"):
        OrderedGrid(Silent(nodes), nodes=3, patience=3.0)


def test_nodes_that_never_come_have_a_limit_too():
    with pytest.raises(Unanswered, match=r"^3 of 4 clients"):
        OrderedGrid(Flaky(0), nodes=4, patience=0.1)


def test_a_lasting_fault_is_reported_after_two_attempts():
    grid, inner, replies = _ask(Flaky(5))
    assert len(inner.rounds) == 2
    assert [reply.has_error() for reply in replies] == [False, True]  # node 7 stays silent
    assert grid.lost == {7}  # what node 9 raised it would raise another time, too

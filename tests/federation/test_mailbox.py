"""Flower's server finds a node's messages as before, and does not go through all of them for a node that has none."""

from __future__ import annotations

import random
import threading
from types import SimpleNamespace

import pytest
from flwr.app import Message, RecordDict
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.task_identity import TaskIdentity

from fedsim.federation.mailbox import Ordered

NODES = range(1, 6)


@pytest.fixture(autouse=True)
def _inside_a_flower_task(monkeypatch):
    for part in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, part, 1)


def _state(kind, monkeypatch):
    """A server of one run that lasts, whose federation has all nodes. Counts the messages that it looks at."""
    state = object.__new__(kind)
    state.lock, state.looked = threading.RLock(), 0
    state._federation_manager = SimpleNamespace(has_node=lambda *_: True, filter_nodes=lambda nodes, _: nodes)
    state.run_ids = {1: SimpleNamespace(run=SimpleNamespace(federation_id="own"))}
    state.nodes = {node: SimpleNamespace(status="online") for node in NODES}
    state.message_ins_store, state.message_res_store, state.message_ins_id_to_message_res_id = {}, {}, {}
    monkeypatch.setattr(kind, "_is_finished_run", lambda self, run: False)
    check = InMemoryLinkState._check_stored_messages

    def counted(self, ids, run=None):
        self.looked += 1
        check(self, ids, run)

    monkeypatch.setattr(kind, "_check_stored_messages", counted)
    return state


def _store(state, node, name):
    message = Message(RecordDict(), dst_node_id=node, message_type="train")
    message.metadata.__dict__["_message_id"] = name
    return state.store_message_ins(message)


def _found(state, node, **how):
    return [message.metadata.message_id for message in state.get_message_ins(node, 1, **how)]


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_flower_finds(seed, monkeypatch):
    ours, flowers = _state(Ordered, monkeypatch), _state(type("Own", (InMemoryLinkState,), {}), monkeypatch)
    draw = random.Random(seed)
    for step in range(60):
        node = draw.choice(NODES)
        if draw.random() < 0.4:
            assert _store(ours, node, f"message {step}") == _store(flowers, node, f"message {step}")
        else:
            how = draw.choice([{}, {}, {"run_id": 1}, {"run_id": 2}])
            assert _found(ours, node, **how) == _found(flowers, node, **how)
    assert ours.looked <= flowers.looked


def test_a_node_without_a_message_costs_nothing(monkeypatch):
    state = _state(Ordered, monkeypatch)
    for number in range(3):
        assert _store(state, 1, f"message {number}") == f"message {number}"
    assert [_found(state, 2) for _ in range(9)] == [[]] * 9
    assert state.looked == 0
    assert [_found(state, 1) for _ in range(4)] == [["message 0"], ["message 1"], ["message 2"], []]
    looked = state.looked
    assert _found(state, 1) == []
    assert state.looked == looked

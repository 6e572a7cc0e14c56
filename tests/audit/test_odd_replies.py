"""Replies as other frameworks and bad days leave them: what can be audited is, and the rest costs itself only."""

from __future__ import annotations

import audit_apps as apps
import torch
from safetensors.torch import load_file, save_file

from attacks import LocalTraining
from fedsim.audit.adversaries import Budget
from fedsim.audit.auditing import audit_store
from fedsim.audit.gathering import subjects_of
from fedsim.audit.told import Told
from fedsim.recording import Recorded, Store

QUICK = Budget(iterations=1)


def told() -> Told:
    local = LocalTraining(learning_rate=0.1)
    fields = {"shape": (1, 28, 28), "classes": 10, "mean": (0.5,), "std": (0.5,), "batch_size": 1}
    return Told(model="audit_apps:Perceptron", local=local, **fields)


def recorded(node: str = "17") -> Recorded:
    torch.manual_seed(0)
    return apps.reply(apps.Perceptron(), node=node)


def turned(one: Recorded) -> Recorded:
    received = {name: one.received[name] for name in reversed(one.received)}
    return Recorded(one.round, one.node, one.sent, received, one.metrics)


def double(one: Recorded) -> Recorded:
    received = {name: value.double() for name, value in one.received.items()}
    return Recorded(one.round, one.node, one.sent, received, one.metrics)


def listed(one: Recorded) -> Recorded:
    """As a list of NumPy arrays: numbers for names."""
    places = [{str(place): v for place, v in enumerate(part.values())} for part in (one.sent, one.received)]
    return Recorded(one.round, one.node, *places, one.metrics)


def wrapped(one: Recorded) -> Recorded:
    named = [{f"module.{name}": value for name, value in part.items()} for part in (one.sent, one.received)]
    return Recorded(one.round, one.node, *named, one.metrics)


def attacked(path):
    """The replies of a store that an audit attacks."""
    subjects, faults, left = subjects_of(Store.open(path), told(), rounds=(), nodes=(), most=9)
    assert (faults, left) == ([], 0)
    return subjects


def test_another_order_type_or_naming_is_the_same_reply(tmp_path):
    forms = (turned, double, listed, wrapped)
    others = (form(recorded(form.__name__)) for form in forms)
    plain, *same = attacked(apps.store(tmp_path / "store", recorded("0"), *others))
    assert len(same) == len(forms)
    for one in same:
        assert one.findings == plain.findings, one.name
        assert one.reply.update.keys() == plain.reply.update.keys(), one.name
        assert all(torch.equal(value, one.reply.update[name]) for name, value in plain.reply.update.items()), one.name


def test_of_few_digits_it_is_said_that_they_were_lost(tmp_path):
    one = recorded()
    half = {name: value.half() for name, value in one.received.items()}
    [subject] = attacked(apps.store(tmp_path / "store", Recorded(1, "1", one.sent, half, one.metrics)))
    assert any("travelled in float16: digits were lost" in finding.says for finding in subject.findings)


def test_nan_and_half_written_replies_cost_themselves_only(tmp_path):
    path = apps.store(tmp_path / "store", *(recorded(node) for node in ("1", "2", "3", "4")))
    folder = path / "round_1"
    arrays = load_file(folder / "node_2.safetensors")
    save_file({**arrays, "head.bias": torch.full((10,), float("nan"))}, folder / "node_2.safetensors")
    (folder / "node_3.json").unlink()
    cut = folder / "node_4.safetensors"
    cut.write_bytes(cut.read_bytes()[:-3])
    Store.open(path).fault(1, "5", "the client raised ConnectionError: no route to host")
    done = audit_store(path, told(), tmp_path / "audit", budget=QUICK)
    assert [subject.name for subject, _ in done.subjects] == ["round 1, node 1"]
    assert done.verdict.leaks
    reasons = {fault.node: fault.reason for fault in done.faults}
    assert reasons.keys() == {"2", "3", "4", "5"}
    assert "head.bias holds NaN or infinity" in reasons["2"]
    assert "half written" in reasons["3"]
    assert "cannot be read" in reasons["4"]
    assert not any("\n" in reason for reason in reasons.values())
    page = (done.path / "audit.html").read_text()
    assert all(f"node {node}" in page for node in reasons)


def test_a_node_that_was_away_for_a_round_is_audited_where_it_was(tmp_path):
    torch.manual_seed(0)
    seen = ((1, "a"), (1, "b"), (3, "a"))
    replies = [apps.reply(apps.Perceptron(), round=number, node=node) for number, node in seen]
    subjects = attacked(apps.store(tmp_path / "store", *replies))
    assert [subject.name for subject in subjects] == ["round 1, node a", "round 1, node b", "round 3, node a"]
    assert [subject.client for subject in subjects] == [0, 1, 0]

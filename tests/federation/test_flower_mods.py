"""Defenses as mods of a stranger's Flower client: what acts on the update alone acts there as it does here."""

from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

import defenses
from defenses.base import Turn
from defenses.client.site import Given, Sampling
from fedsim.flower import mod

SENT = {
    "linear.weight": torch.zeros(20, 30),
    "linear.bias": torch.ones(20),
    "norm.running_mean": torch.zeros(20),
    "norm.num_batches_tracked": torch.tensor(3),
}
CHANGE = {name: torch.randn(SENT[name].shape, generator=torch.Generator().manual_seed(1)) for name in list(SENT)[:2]}


def looks_at_the_client(defense):
    """Which is found out by giving it none."""
    try:
        defense.on_update(dict(CHANGE), turn=Turn(Sampling(lambda site, step: torch.Generator()).draw))
    except ValueError as error:
        return "it can act only on the update of a client's round" in str(error)
    return False


ON_UPDATES = [name for name in defenses.names() if defenses.get(name).__module__.startswith("defenses.update.")]
ALONE = {name for name in ON_UPDATES if not looks_at_the_client(defenses.create(name))}
"""The defenses that act on the update and look at nothing else."""


def test_those_that_act_on_updates_are_told_apart():
    assert {"clip", "gaussian_noise", "local_dp", "pruning", "quantization", "sign", "svdefense"} <= ALONE
    assert {"censor", "dcs", "outpost", "soteria"} <= {*ON_UPDATES} - ALONE


@pytest.fixture(autouse=True)
def _inside_a_flower_task(monkeypatch):
    """Flower lets messages be made only by a task that knows who it is."""
    for part in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, part, 1)


def context():
    return Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})


def request(kind="train", **records):
    return Message(RecordDict(records or {"arrays": ArrayRecord(SENT)}), dst_node_id=2, message_type=kind)


def client(message, context):
    """Adds the change to the weights, and counts the batch."""
    state = message.content.array_records["arrays"].to_torch_state_dict()
    state = {name: value + CHANGE.get(name, 0) for name, value in state.items()}
    state["norm.running_mean"] += 0.5
    state["norm.num_batches_tracked"] += 1
    return Message(
        RecordDict({"arrays": ArrayRecord(state), "metrics": MetricRecord({"n": 4})}), reply_to=message
    )


def returned(reply):
    return reply.content.array_records["arrays"].to_torch_state_dict()


@pytest.mark.parametrize("name", defenses.names())
def test_each_defense_acts_as_it_does_here_or_is_refused_with_the_reason(name):
    defense = defenses.create(name)
    if name not in ALONE:
        with pytest.raises(ValueError, match=rf"{name} (acts on|looks at) .*, which a mod does not see"):
            mod(name)
        return
    reply = mod(name)(request(), context(), client)
    found = returned(reply)
    assert list(reply.content.metric_records["metrics"].items()) == [("n", 4)]
    assert found["norm.running_mean"].tolist() == [0.5] * 20
    assert found["norm.num_batches_tracked"] == 4
    drawn = Sampling(lambda site, step: torch.Generator().manual_seed(0))
    defense.on_update(dict(CHANGE), turn=Turn(drawn.draw))
    if not drawn.drawn:
        expected = defense.on_update(dict(CHANGE), turn=Turn(Given({}, (1,)).draw))
        for entry, value in expected.items():
            torch.testing.assert_close(found[entry] - SENT[entry], value, rtol=1e-5, atol=1e-6)


def test_noise_is_of_its_size_and_never_the_same():
    noisy = mod("gaussian_noise", std=0.1)
    first, second = (returned(noisy(request(), context(), client))["linear.weight"] for _ in range(2))
    assert not torch.equal(first, second)
    assert (first - CHANGE["linear.weight"]).std() == pytest.approx(0.1, rel=0.2)


def test_what_was_not_sent_is_remembered_for_the_next_round():
    feedback, node = mod("pruning", keep=0.1, error_feedback=True), context()
    sent = [returned(feedback(request(), node, client)) for _ in range(40)]
    total = sum(one["linear.weight"] for one in sent) / len(sent)
    kept = (sent[0]["linear.weight"] != 0).float().mean()
    assert 0.05 < kept < 0.15
    torch.testing.assert_close(total, CHANGE["linear.weight"], rtol=0, atol=0.35)  # by and by all of it gets through
    assert [*node.state.array_records] == ["fedsim pruning"]


def test_two_of_one_defense_remember_apart():
    """A pruned update that is pruned again is, but for rounding, what one does that is given the first one's."""
    def run(nodes, outer, inner):
        def chain(message, node):
            return inner(message, nodes[1], client)

        return [returned(outer(request(), nodes[0], chain))["linear.weight"] for _ in range(4)]

    pair = [mod("pruning", keep=keep, error_feedback=True) for keep in (0.2, 0.5)]
    one, apart = context(), (context(), context())
    for found, expected in zip(run((one, one), *pair), run(apart, *pair)):
        torch.testing.assert_close(found, expected)
    assert [*one.state.array_records] == ["fedsim pruning#2", "fedsim pruning"]
    assert [*apart[0].state.array_records] == ["fedsim pruning"]


def test_of_several_the_last_acts_first():
    def chain(message, node):
        return mod("pruning", keep=0.1)(message, node, client)

    found = returned(mod("clip", norm=0.5)(request(), context(), chain))
    change = {name: found[name] - SENT[name] for name in CHANGE}
    assert torch.cat([value.flatten() for value in change.values()]).norm() == pytest.approx(0.5, rel=1e-4)


def test_what_is_no_training_and_what_failed_pass_as_they_are():
    evaluated = mod("clip", norm=1e-3)(request("evaluate"), context(), client)
    torch.testing.assert_close(returned(evaluated)["linear.weight"], CHANGE["linear.weight"])

    def failing(message, node):
        return Message(Error(code=1, reason="out of memory"), reply_to=message)

    assert mod("clip")(request(), context(), failing).has_error()


def test_other_messages_are_refused_in_one_line():
    two = request(arrays=ArrayRecord(SENT), more=ArrayRecord(SENT))
    with pytest.raises(ValueError, match="the message holds 2 records of arrays; a mod takes one"):
        mod("clip")(two, context(), client)

    def renamed(message, node):
        return Message(RecordDict({"arrays": ArrayRecord({"w": torch.zeros(2)})}), reply_to=message)

    with pytest.raises(ValueError, match="does not have the arrays that were sent"):
        mod("clip")(request(), context(), renamed)


def test_a_parameter_out_of_its_range_is_refused_when_the_app_is_made():
    with pytest.raises(ValueError, match="norm"):
        mod("clip", norm=-1.0)

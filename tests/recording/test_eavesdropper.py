"""The eavesdropper writes down what went to and fro, and the strategy that it wraps cannot tell that it is there."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from flower_messages import STATE, Nodes, content, request, trained
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    Result,
)

import fedsim
from fedsim.errors import BadInput
from fedsim.recording import Store
from fedsim.recording.eavesdropper import Eavesdropper
from fedsim.recording.records import parted

ROUNDS = 3


class OwnStart(FedAvg):
    """Goes its own way: pushes and pulls, one node after the other, on a grid that it keeps."""

    def start(self, grid, initial_arrays, num_rounds=1, **how):
        arrays, result = initial_arrays, Result()
        for round in range(1, num_rounds + 1):
            messages = list(self.configure_train(round, arrays, ConfigRecord(), grid))
            replies = []
            for message in messages:
                replies += grid.pull_messages(grid.push_messages([message]))
            arrays, _ = self.aggregate_train(round, replies)
        result.arrays = arrays
        return result


def two_of_three(strategy=FedAvg, **how):
    return strategy(fraction_train=0.67, min_train_nodes=2, min_available_nodes=3, **how)


STRATEGIES = {
    "FedAvg": lambda: two_of_three(),
    "FedAdam": lambda: two_of_three(FedAdam),
    "FedMedian": lambda: FedMedian(),
    "FedTrimmedAvg": lambda: FedTrimmedAvg(beta=0.4),
    "Krum": lambda: Krum(num_malicious_nodes=0),
    "DP server side": lambda: DifferentialPrivacyServerSideFixedClipping(two_of_three(), 0.1, 1.0, 2),
    "DP client side": lambda: DifferentialPrivacyClientSideFixedClipping(two_of_three(), 0.1, 1.0, 2),
    "DP adaptive": lambda: DifferentialPrivacyServerSideAdaptiveClipping(two_of_three(), 0.1, 2),
    "other names": lambda: two_of_three(arrayrecord_key="weights", configrecord_key="told"),
    "own start": lambda: two_of_three(OwnStart),
}


class Diary:
    """What a strategy's aggregation was given, as it was given."""

    def __init__(self, strategy):
        self.seen = []
        inner = strategy.aggregate_train

        def aggregate_train(server_round, replies):
            replies = list(replies)
            self.seen.append([(reply.metadata.src_node_id, plain(reply)) for reply in replies])
            return inner(server_round, replies)

        strategy.aggregate_train = aggregate_train


def plain(message):
    """All that a message holds, to the last byte."""
    if message.has_error():
        return message.error.reason
    return {
        name: {key: vars(value).copy() if hasattr(value, "stype") else value for key, value in record.items()}
        for name, record in message.content.items()
    }


def run(strategy, grid):
    """One run from seeds: what the strategy was given, what it came to, and where random numbers stand after it."""
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    arrays = ArrayRecord({name: value.float() for name, value in STATE.items()})
    result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=ROUNDS, train_config=ConfigRecord({"lr": 0.1}))
    numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return {name: array.data for name, array in result.arrays.items()}, result.train_metrics_clientapp, numbers


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_wrapped_strategy_sees_and_draws_what_it_would_without(tmp_path, name):
    alone, bare_grid = STRATEGIES[name](), Nodes()
    bare = Diary(alone)
    expected = run(alone, bare_grid)
    inner, grid = STRATEGIES[name](), Nodes()
    diary = Diary(inner)
    found = run(fedsim.Eavesdropper(inner, store=tmp_path / "o"), grid)
    assert found[0] == expected[0]
    assert found[1] == expected[1]
    assert found[2] == expected[2]
    assert diary.seen == bare.seen
    assert len(diary.seen) == ROUNDS
    assert [(node, round, dict(sent)) for node, round, sent in grid.asked] == [
        (node, round, dict(sent)) for node, round, sent in bare_grid.asked
    ]


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_went_to_and_fro_is_what_is_recorded(tmp_path, name):
    grid = Nodes()
    run(Eavesdropper(STRATEGIES[name](), store=tmp_path / "o"), grid)
    store = Store.open(tmp_path / "o")
    training = [one for one in grid.asked if "lr" in str(one[2]) or name == "own start"]
    training = [one for one in training if (one[1], str(one[0])) in store.listed()]
    assert {(round, str(node)) for node, round, _ in training} == set(store.listed())
    assert len(store.listed()) == ROUNDS * (3 if name in ("FedMedian", "FedTrimmedAvg", "Krum") else 2)
    assert not store.faults()
    for round, node in store.listed():
        recorded = store.read(round, node)
        sent = next(held for number, at, held in grid.asked if (at, str(number)) == (round, node))
        [arrays] = sent.array_records.values()
        for key, value in arrays.to_torch_state_dict().items():
            assert torch.equal(recorded.sent[key], value)
            assert torch.equal(recorded.received[key], trained(int(node), {key: value})[key])
        assert recorded.metrics["num-examples"] == int(node)
        assert recorded.config["server-round"] == round
    if name != "own start":
        assert store.read(*store.listed()[0]).config["lr"] == 0.1


def test_inside_another_strategy_the_hooks_listen(tmp_path):
    wrapped = Eavesdropper(FedAvg(fraction_evaluate=0.0), store=tmp_path / "o")
    outer = DifferentialPrivacyServerSideFixedClipping(wrapped, 0.0, 100.0, 3)
    outer.start(Nodes(), ArrayRecord({"weight": torch.zeros(2)}), num_rounds=2)
    store = Store.open(tmp_path / "o")
    assert store.listed() == [(round, node) for round in (1, 2) for node in ("10", "20", "30")]
    assert torch.equal(store.read(1, "20").received["weight"], torch.full((2,), 2.5))


def test_inside_another_strategy_evaluations_go_through(tmp_path):
    plain = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.0, 100.0, 3)
    wrapped = DifferentialPrivacyServerSideFixedClipping(Eavesdropper(FedAvg(), store=tmp_path / "o"), 0.0, 100.0, 3)
    expected, found = (outer.start(Nodes(), ArrayRecord(STATE), num_rounds=2) for outer in (plain, wrapped))
    assert len(expected.evaluate_metrics_clientapp) == 2
    assert found.evaluate_metrics_clientapp == expected.evaluate_metrics_clientapp


def test_a_loop_of_ones_own_is_heard_through_the_hooks(tmp_path):
    wrapped, grid = Eavesdropper(FedAvg(), store=tmp_path / "o"), Nodes()
    messages = wrapped.configure_train(4, ArrayRecord(STATE), ConfigRecord(), grid)
    arrays, metrics = wrapped.aggregate_train(4, grid.send_and_receive(messages))
    assert arrays is not None
    assert metrics is not None
    assert Store.open(tmp_path / "o").listed() == [(4, "10"), (4, "20"), (4, "30")]


def test_messages_that_ask_for_no_training_are_passed_over(tmp_path):
    grid = Nodes()
    result = Eavesdropper(FedAvg(), store=tmp_path / "o").start(grid, ArrayRecord(STATE), num_rounds=1)
    assert result.evaluate_metrics_clientapp[1]["loss"] == pytest.approx(0.5)
    assert len(grid.asked) == 6
    assert len(Store.open(tmp_path / "o").listed()) == 3


def test_nodes_that_were_sent_different_arrays_have_each_their_own(tmp_path):
    class Personal(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            return [request(node, {"weight": torch.full((2,), float(node))}) for node in grid.get_node_ids()]

    Eavesdropper(Personal(), store=tmp_path / "o").start(Nodes(), ArrayRecord(STATE), num_rounds=2)
    store = Store.open(tmp_path / "o")
    for node in (10, 20, 30):
        for round in (1, 2):  # which the messages do not say
            assert torch.equal(store.read(round, str(node)).sent["weight"], torch.full((2,), float(node)))


def test_a_record_that_is_changed_afterwards_is_recorded_as_it_was(tmp_path):
    class Emptying(FedAvg):
        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            for reply in replies:
                reply.content["arrays"] = ArrayRecord({"weight": torch.zeros(2)})
            self.told["server-round"] = 77
            return super().aggregate_train(server_round, replies)

        def configure_train(self, server_round, arrays, config, grid):
            self.told = config
            return super().configure_train(server_round, arrays, config, grid)

    Eavesdropper(Emptying(), store=tmp_path / "o").start(Nodes(), ArrayRecord({"weight": torch.ones(2)}), num_rounds=1)
    recorded = Store.open(tmp_path / "o").read(1, "10")
    assert recorded.config["server-round"] == 1
    assert torch.equal(recorded.received["weight"], torch.full((2,), 2.25))


NAN = {**STATE, "bias": torch.tensor([1.0, float("nan")])}
FAULTS = {
    "ValueError: boom\nno more": "the client raised ValueError: boom no more",
    "silence": "no reply before the round's deadline",
    "NaN": "bias holds NaN or infinity",
    "other names": "the reply's arrays are not those of the model: weight, count missing, head never sent",
    "other shape": "weight has shape (3, 2), not (2, 3)",
    "no arrays": "the reply holds no arrays",
    "two records": "no record of the reply has the arrays of one that was sent; it holds a (1), b (2)",
    "NaN in the only record that fits": "bias holds NaN or infinity",
}
ANSWERS = {
    "NaN": content(10, NAN),
    "other names": content(10, {"bias": torch.zeros(2), "head": torch.zeros(1)}),
    "other shape": content(10, {**STATE, "weight": torch.zeros(3, 2)}),
    "no arrays": RecordDict({"metrics": MetricRecord({"num-examples": 1})}),
    "two records": RecordDict(
        {
            "a": ArrayRecord({"weight": torch.zeros(2, 3)}),
            "b": ArrayRecord({name: STATE[name] for name in ("bias", "count")}),
        }
    ),
    "NaN in the only record that fits": RecordDict(
        {"a": ArrayRecord(NAN), "b": ArrayRecord({"c": torch.zeros(1)})}
    ),
}


class Forgiving(FedAvg):
    """Aggregates nothing: what an odd reply does to it is not the question here."""

    def aggregate_train(self, server_round, replies):
        self.given = list(replies)
        return None, None


@pytest.mark.parametrize("answer", FAULTS)
def test_a_faulty_reply_costs_itself_only_and_the_strategy_still_has_it(tmp_path, answer):
    inner = Forgiving(fraction_evaluate=0.0)
    grid = Nodes(answers={(10, 1): ANSWERS.get(answer, answer)})
    Eavesdropper(inner, store=tmp_path / "o").start(grid, ArrayRecord(STATE), num_rounds=2)
    store = Store.open(tmp_path / "o")
    assert store.listed() == [(1, "20"), (1, "30"), (2, "10"), (2, "20"), (2, "30")]
    assert [(fault.round, fault.node, fault.reason) for fault in store.faults()] == [(1, "10", FAULTS[answer])]
    assert len(inner.given) == 3


def test_another_dtype_or_order_of_a_reply_is_kept(tmp_path):
    odd = {name: STATE[name].double() for name in reversed(STATE)}
    grid = Nodes(answers={(10, 1): content(10, odd)})
    Eavesdropper(Forgiving(), store=tmp_path / "o").start(grid, ArrayRecord(STATE), num_rounds=1)
    received = Store.open(tmp_path / "o").read(1, "10").received
    assert list(received) == ["count", "bias", "weight"]
    assert received["weight"].dtype == torch.float64


def test_several_records_are_all_kept(tmp_path):
    """A control variate beside the model, a part that came back alone: each array is called after its record."""
    reply = RecordDict(
        {
            "model": ArrayRecord(trained(10)),
            "control": ArrayRecord(NAN),
            "control/more": ArrayRecord({"bias": torch.ones(1)}),
        }
    )
    grid = Nodes(answers={(10, 1): reply})
    Eavesdropper(Forgiving(), store=tmp_path / "o").start(grid, ArrayRecord(STATE), num_rounds=1)
    store = Store.open(tmp_path / "o")
    assert store.faults() == []
    recorded = store.read(1, "10")
    assert recorded.records == ("arrays", "model", "control", "control/more")
    assert list(recorded.sent) == ["arrays/weight", "arrays/bias", "arrays/count"]
    back = parted(recorded.received, recorded.records)
    assert torch.equal(back["model"]["weight"], trained(10)["weight"])
    assert back["control"]["bias"].isnan().any()
    assert back["control/more"].keys() == {"bias"}
    assert store.read(1, "20").records == ()
    assert store.read(1, "20").sent.keys() == STATE.keys()


def test_what_the_message_called_its_records_is_kept(tmp_path):
    class Naming(Forgiving):
        def configure_train(self, server_round, arrays, config, grid):
            self.arrayrecord_key, self.configrecord_key = "weights", "orders"
            return super().configure_train(server_round, arrays, config, grid)

    Eavesdropper(Naming(), store=tmp_path / "o").start(Nodes(), ArrayRecord(STATE), num_rounds=1)
    recorded = Store.open(tmp_path / "o").read(1, "10")
    assert (recorded.record, recorded.config_record, recorded.records) == ("weights", "orders", ())


def test_a_list_of_arrays_has_the_names_of_what_was_sent_if_it_fits(tmp_path):
    arrays = [np.asarray(value + 1) for value in STATE.values()]
    legacy = RecordDict({"fitres.parameters": ArrayRecord(arrays), "fitres.num_examples": MetricRecord({"n": 5})})
    turned = RecordDict({"fitres.parameters": ArrayRecord(arrays[::-1])})
    grid = Nodes(answers={(10, 1): legacy, (20, 1): turned})
    Eavesdropper(Forgiving(), store=tmp_path / "o").start(grid, ArrayRecord(STATE), num_rounds=1)
    store = Store.open(tmp_path / "o")
    assert torch.equal(store.read(1, "10").received["weight"], STATE["weight"] + 1)
    assert store.read(1, "10").metrics == {"n": 5}
    [fault] = store.faults()
    assert (fault.node, "a list of arrays without names" in fault.reason) == ("20", True)


def test_arrays_that_are_no_arrays_of_numbers_are_a_fault(tmp_path):
    record = ArrayRecord(STATE)
    record["weight"].stype = "pickled"
    grid = Nodes(answers={(10, 1): RecordDict({"arrays": record})})
    Eavesdropper(Forgiving(), store=tmp_path / "o").start(grid, ArrayRecord(STATE), num_rounds=1)
    [fault] = Store.open(tmp_path / "o").faults()
    assert "the reply's arrays cannot be read" in fault.reason
    assert "pickled" in fault.reason


def test_a_node_that_comes_and_goes_is_recorded_where_it_was(tmp_path):
    class Leaving(Nodes):
        def get_node_ids(self):
            return self.nodes if len(self.asked) != 3 else [10, 20]

    Eavesdropper(FedAvg(fraction_evaluate=0.0), store=tmp_path / "o").start(Leaving(), ArrayRecord(STATE), num_rounds=3)
    listed = Store.open(tmp_path / "o").listed()
    assert [node for round, node in listed if round == 2] == ["10", "20"]
    assert len(listed) == 8


def test_limits_on_rounds_and_nodes(tmp_path):
    def listed(**limits):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        random.seed(0)
        Eavesdropper(FedAvg(), store=path, **limits).start(Nodes(), ArrayRecord(STATE), num_rounds=3)
        assert not Store.open(path).faults()
        return Store.open(path).listed()

    assert {round for round, _ in listed(rounds=[1, 3])} == {1, 3}
    assert len(listed(nodes=1)) == 3
    assert len(listed(nodes=2, rounds=range(2))) == 2
    assert listed(nodes=[20, "30"], rounds={2}) == [(2, "20"), (2, "30")]


def test_what_exceeds_the_bytes_is_left_out_and_said(tmp_path):
    state = {"weight": torch.zeros(1000)}
    Eavesdropper(FedAvg(), store=tmp_path / "all").start(Nodes(), ArrayRecord(state), num_rounds=1)
    whole = Store.open(tmp_path / "all").bytes()
    limit = whole - 3000
    Eavesdropper(FedAvg(), store=tmp_path / "o", max_bytes=limit).start(Nodes(), ArrayRecord(state), num_rounds=1)
    store = Store.open(tmp_path / "o")
    assert len(store.listed()) == 2
    faults = sum(file.stat().st_size for file in store.path.rglob("fault_*"))
    assert store.bytes() - faults <= limit
    [fault] = store.faults()
    assert f"would exceed max_bytes = {limit}" in fault.reason
    assert not [file for file in store.path.rglob("node_*.safetensors") if not file.with_suffix(".json").exists()]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"rounds": 3}, r"rounds = 3: a collection of round numbers"),
        ({"rounds": "12"}, r"rounds = '12'"),
        ({"nodes": 0}, r"nodes = 0: a number of at least 1"),
        ({"nodes": "7"}, r"nodes = '7'"),
        ({"max_bytes": 0}, r"max_bytes = 0: a number of at least 1"),
    ],
)
def test_limits_that_are_none_are_refused_and_nothing_is_made(tmp_path, limits, reason):
    with pytest.raises(BadInput, match=reason):
        Eavesdropper(FedAvg(), store=tmp_path / "o", **limits)
    assert not (tmp_path / "o").exists()


def test_a_strategy_of_the_older_api_is_refused_by_name(tmp_path):
    from flwr.server.strategy import FedAvg as Older

    with pytest.raises(BadInput, match=r"^flwr.server.strategy.fedavg.FedAvg is no strategy of Flower's Message API"):
        Eavesdropper(Older(), store=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_store_that_fails_does_not_stop_the_federation(tmp_path, caplog, monkeypatch):
    wrapped = Eavesdropper(FedAvg(), store=tmp_path / "o")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    result = wrapped.start(Nodes(), ArrayRecord(STATE), num_rounds=1)
    assert result.arrays is not None
    assert "No space left on device" in caplog.text
    assert "takes no more files" in caplog.text


def test_the_same_round_again_keeps_the_first(tmp_path):
    wrapped = Eavesdropper(FedAvg(), store=tmp_path / "o")
    for _ in range(2):
        wrapped.start(Nodes(nodes=[10, 20]), ArrayRecord(STATE), num_rounds=1)
    faults = Store.open(tmp_path / "o").faults()
    assert len(faults) == 2
    assert all("is there already" in fault.reason for fault in faults)


def test_replies_to_what_was_never_heard_are_named(tmp_path):
    wrapped = Eavesdropper(Forgiving(), store=tmp_path / "o")
    wrapped.aggregate_train(1, [Message(content(10, STATE), reply_to=request(10))])
    [fault] = Store.open(tmp_path / "o").faults()
    assert fault.reason == "a reply to a message that was never heard"


def test_attributes_are_those_of_the_wrapped_strategy(tmp_path):
    inner = FedAvg(fraction_train=0.5)
    wrapped = Eavesdropper(inner, store=tmp_path / "o")
    assert wrapped.fraction_train == 0.5
    wrapped.fraction_train = 1.0
    assert inner.fraction_train == 1.0
    assert copy.copy(wrapped).fraction_train == 1.0
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = wrapped.nonsense


def test_a_grid_has_what_the_wrapped_one_has():
    from fedsim.recording.ear import Ear
    from fedsim.recording.listening_grid import ListeningGrid

    grid = ListeningGrid(Nodes(), Ear(None))
    assert grid.nodes == [30, 10, 20]
    assert [info.node_id for info in grid.get_nodes()] == [30, 10, 20]
    assert grid.create_message(RecordDict(), 10, "query").metadata.dst_node_id == 10


def test_an_own_recorder_takes_the_place_of_a_folder():
    class Counting:
        def __init__(self):
            self.told = []

        def wants(self, round, node):
            return node != "30"

        def add(self, recorded):
            self.told.append(recorded.node)

        def fault(self, round, node, reason):
            self.told.append(reason)

        def ended(self, round):
            self.told.append(round)

    recorder = Counting()
    Eavesdropper(FedAvg(), store=recorder).start(Nodes(), ArrayRecord(STATE), num_rounds=2)
    assert [recorder.told[2], recorder.told[5]] == [1, 2]
    assert sorted(recorder.told[:2]) == ["10", "20"]
    with pytest.raises(ValueError, match="decides for itself"):
        Eavesdropper(FedAvg(), store=recorder, nodes=1)

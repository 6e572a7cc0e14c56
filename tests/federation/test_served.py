"""Fedsim's own server listens as anybody's would, drops what cannot be aggregated, and restores dtypes."""

from __future__ import annotations

import pytest
import torch
from federation_cells import BASE, work
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid as FlowerGrid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian
from flwr.supercore.task_identity import TaskIdentity

from fedsim.federation.applied import Applied
from fedsim.federation.client import TRUTH
from fedsim.federation.grid import OrderedGrid
from fedsim.federation.listener import Listener
from fedsim.federation.plan import Plan
from fedsim.federation.served import Served
from fedsim.recording.eavesdropper import Eavesdropper
from fedsim.truth import Truth, pack


@pytest.fixture(autouse=True)
def _inside_a_flower_task(monkeypatch):
    """Flower lets messages be made only by a task that knows who it is."""
    for part in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, part, 1)


STATE = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "count": torch.tensor(7)}


class Grid:
    def get_node_ids(self):
        return [30, 10, 20]


def _reply(node: int, arrays: dict | None, *, error: str | None = None) -> Message:
    request = Message(RecordDict(), dst_node_id=node, message_type="train")
    if error:
        return Message(Error(code=1, reason=error), reply_to=request)
    records = {"metrics": MetricRecord({"num-examples": 1})}
    if arrays is not None:
        records["arrays"] = ArrayRecord(arrays)
    return Message(RecordDict(records), reply_to=request)


def _eavesdropper(strategy, share="weights", **how):
    seen, faults = [], []
    partition_of = {10: 0, 20: 1, 30: 2}
    listener = Listener(
        partition_of=partition_of,
        envelopes={},
        images=lambda client: 1,
        on_capture=lambda capture, truth: seen.append((capture, truth)),
        on_fault=lambda *fault: faults.append(fault),
    )
    served = Served(
        strategy,
        partition_of=partition_of,
        applied=Applied(share=share, learning_rate=0.5, trained={"weight": "weight", "bias": "bias"}, **how),
        seed=0,
        examples=listener.examples,
    )
    wrapped = Eavesdropper(served, store=listener)
    messages = wrapped.configure_train(1, ArrayRecord(STATE), ConfigRecord(), Grid())
    return wrapped, seen, faults, list(messages)


def _filled(value: float) -> dict:
    return {"weight": torch.full((2, 3), value), "bias": torch.full((2,), value), "count": torch.tensor(7)}


@pytest.mark.parametrize("strategy", [FedAvg, FedMedian, FedAdam])
def test_it_wraps_any_strategy(strategy):
    wrapped, seen, faults, messages = _eavesdropper(strategy(fraction_evaluate=0.0))
    if strategy is FedAdam:
        wrapped.strategy.strategy.current_arrays = {key: value.numpy() for key, value in STATE.items()}
    assert len(messages) == 3
    arrays, _ = wrapped.aggregate_train(1, [_reply(node, _filled(float(node))) for node in (30, 10, 20)])
    assert [capture.client for capture, _ in seen] == [0, 1, 2]
    assert not faults
    assert arrays is not None
    assert arrays.to_torch_state_dict()["weight"].dtype == torch.float32
    assert arrays.to_torch_state_dict()["count"].dtype == torch.int64


def test_each_round_draws_its_own_clients_and_draws_them_again():
    class Ordered:
        def get_node_ids(self):
            return list(range(100, 106))

    wrapped, _, _, _ = _eavesdropper(FedAvg(fraction_train=0.5, min_train_nodes=3, fraction_evaluate=0.0))
    wrapped.strategy._partition_of = {100 + part: part for part in range(6)}
    described = work(federation={**BASE["federation"], "clients": 6, "clients_per_round": 3})

    def drawn(round):
        messages = wrapped.configure_train(round, ArrayRecord(STATE), ConfigRecord(), Ordered())
        return sorted(message.metadata.dst_node_id - 100 for message in messages)

    rounds = [drawn(round) for round in range(1, 9)]
    assert all(len(set(clients)) == 3 for clients in rounds)
    assert len({tuple(clients) for clients in rounds}) > 3
    assert [drawn(round) for round in range(1, 9)] == rounds
    assert [Plan(described).drawn(round) for round in range(1, 9)] == rounds


class Answering(FlowerGrid):
    """A grid of three nodes that reply with arrays and an envelope; the image in it is the node's number."""

    run = set_run = create_message = push_messages = pull_messages = None

    def get_node_ids(self):
        return [30, 10, 20]

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            if message.metadata.message_type == "query":
                content = RecordDict({"node": MetricRecord({"partition": node // 10 - 1})})
            else:
                pixels = torch.full((1, 1, 2, 2), node, dtype=torch.uint8)
                envelope = pack(Truth(pixels, torch.zeros(1, dtype=torch.int64), {}, 1.0))
                content = _reply(node, _filled(float(node))).content
                content[TRUTH] = ConfigRecord({"safetensors": envelope})
            replies.append(Message(content, reply_to=message))
        return replies


def test_a_truth_reaches_who_seals_it_and_no_strategy():
    class Curious(FedAvg):
        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            assert len(replies) == 3
            assert all(TRUTH not in reply.content for reply in replies)
            return super().aggregate_train(server_round, replies)

    grid = OrderedGrid(Answering(), nodes=3).first(3, 1.0)
    seen = []
    listener = Listener(
        partition_of=grid.partition_of,
        envelopes=grid.envelopes,
        images=lambda client: 1,
        on_capture=lambda capture, truth: seen.append((capture, truth)),
        on_fault=lambda *fault: pytest.fail(str(fault)),
    )
    served = Served(
        Curious(fraction_evaluate=0.0),
        partition_of=grid.partition_of,
        applied=Applied(share="weights", learning_rate=0.5, trained={"weight": "weight", "bias": "bias"}),
        seed=0,
        examples=listener.examples,
    )
    result = Eavesdropper(served, store=listener).start(grid, ArrayRecord(STATE), num_rounds=2)
    order = [(capture.round, capture.client, int(truth.images.max())) for capture, truth in seen]
    assert order == [(round, client, 10 * client + 10) for round in (1, 2) for client in range(3)]
    assert torch.equal(result.arrays.to_torch_state_dict()["weight"], torch.full((2, 3), 20.0))
    assert torch.equal(seen[3][0].sent["weight"], torch.full((2, 3), 20.0))


def test_a_gradient_becomes_the_weights_it_implies():
    wrapped, seen, _, _ = _eavesdropper(FedAvg(fraction_evaluate=0.0), share="gradient")
    arrays, _ = wrapped.aggregate_train(1, [_reply(10, _filled(1.0)), _reply(20, _filled(3.0))])
    assert torch.equal(arrays.to_torch_state_dict()["weight"], torch.full((2, 3), -0.5 * 2.0))
    assert torch.equal(seen[0][0].received["weight"], torch.full((2, 3), 1.0))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({**_filled(1.0), "bias": torch.tensor([1.0, float("nan")])}, "bias holds NaN or infinity"),
        ({**_filled(1.0), "weight": torch.zeros(3, 2)}, "weight has shape"),
        ({"weight": torch.zeros(2, 3)}, "not those of the model"),
        (None, "no arrays"),
    ],
)
def test_a_malformed_reply_goes_no_further(arrays, reason):
    wrapped, seen, faults, _ = _eavesdropper(FedAvg(fraction_evaluate=0.0))
    result, _ = wrapped.aggregate_train(1, [_reply(10, _filled(1.0)), _reply(20, arrays), _reply(30, _filled(1.0))])
    assert [capture.client for capture, _ in seen] == [0, 2]
    assert [(fault[0], fault[1]) for fault in faults] == [(1, 1)]
    assert reason in faults[0][2]
    assert torch.equal(result.to_torch_state_dict()["weight"], torch.ones(2, 3))


FROM_RAY = (
    "<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'\x1b[36mray::ClientAppActor.run()\x1b[39m (pid=7, "
    "ip=10.0.0.1, repr=<flwr.simulation.ray_transport.ray_actor.ClientAppActor object at 0x7f>)\n"
    "{frames}ValueError: Expected more than 1 value per channel when training, got input size torch.Size([1, 32])\n\n"
    "The above exception was the direct cause of the following exception:\n\n"
    "\x1b[36mray::ClientAppActor.run()\x1b[39m (pid=7, ip=10.0.0.1)\n           ^^^^^^^^^^^^^^^^^^^\n"
    '  File "/site-packages/flwr/simulation/ray_transport/ray_actor.py", line 65, in run\n'
    "    raise ClientAppException(str(ex)) from ex\nflwr.clientapp.client_app.ClientAppException: \n"
    "Exception ClientAppException occurred. Message: Expected more than 1 value per channel when training'>"
)
FRAME = '  File "/own/net.py", line 8, in forward\n    return self.norm(x)\n           ^^^^^^^^^^^^\n'


@pytest.mark.parametrize("frames", ["", 30 * FRAME], ids=["no frames", "deep"])
def test_the_cause_of_a_fault_is_said_and_not_its_wrappings(frames):
    wrapped, _, faults, _ = _eavesdropper(FedAvg(fraction_evaluate=0.0))
    wrapped.aggregate_train(1, [_reply(10, None, error=FROM_RAY.format(frames=frames))])
    assert faults[0][2] == (
        "the client raised ValueError: Expected more than 1 value per channel when training, got input size "
        "torch.Size([1, 32])"
    )


def test_a_client_that_raised_and_one_that_never_replied_are_faults():
    wrapped, seen, faults, _ = _eavesdropper(FedAvg(fraction_evaluate=0.0))
    result, _ = wrapped.aggregate_train(1, [_reply(10, None, error="ValueError:\nboom"), _reply(30, _filled(1.0))])
    assert [capture.client for capture, _ in seen] == [2]
    assert faults[0][1] == 0
    assert "boom" in faults[0][2]
    assert "\n" not in faults[0][2]
    assert faults[1] == (1, 1, "no reply before the round's deadline")
    assert result is not None

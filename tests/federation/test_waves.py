"""A round is asked for, heard and aggregated wave by wave: the same to the last bit, and no reply stays in memory."""

from __future__ import annotations

import json
import weakref

import numpy as np
import pytest
import torch
from federation_cells import BASE, work
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from attacks.observation import SUM
from fedsim import observations
from fedsim.federation import server, waves
from fedsim.federation.averaging import RunningAverage
from fedsim.federation.client import TRUTH, app
from fedsim.federation.grid import OrderedGrid
from fedsim.federation.plan import Plan
from fedsim.federation.server import run_cell
from fedsim.federation.waves import Waves
from fedsim.federation.workers import Measurement
from fedsim.files import read_json
from fedsim.paths import USER_PATH

CLIENTS = 7


@pytest.fixture(autouse=True)
def _inside_a_flower_task(monkeypatch):
    """Flower lets messages be made only by a task that knows who it is."""
    for part in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, part, 1)


def _reply(node: int, examples: int) -> Message:
    random = np.random.default_rng(node)
    arrays = {
        "weight": torch.from_numpy(random.normal(size=(5, 3)).astype(np.float32)),
        "double": torch.from_numpy(random.normal(size=4)),
        "count": torch.tensor(node),
        "counts": torch.arange(node, node + 3),
    }
    records = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": examples})}
    return Message(RecordDict(records), reply_to=Message(RecordDict(), dst_node_id=node, message_type="train"))


class Nodes(Grid):
    run = set_run = create_message = push_messages = pull_messages = send_and_receive = None

    def get_node_ids(self):
        return list(range(1, 6))


EXAMPLES = {1: 3, 2: 5, 3: 7, 4: 1, 5: 11}


def _averaged(replying):
    """By Flower, from a list, and by the running average, from what can be gone through once."""
    how = {"fraction_evaluate": 0.0, "min_train_nodes": 5, "min_available_nodes": 5}
    running = RunningAverage(examples_of=EXAMPLES.__getitem__, **how)
    running.configure_train(1, ArrayRecord({"weight": torch.zeros(1)}), ConfigRecord(), Nodes())
    flowers, _ = FedAvg(**how).aggregate_train(1, [_reply(node, EXAMPLES[node]) for node in replying])
    own, _ = running.aggregate_train(1, iter([_reply(node, EXAMPLES[node]) for node in replying]))
    return flowers, own


def test_the_running_average_is_flowers_to_the_last_bit():
    flowers, own = _averaged([1, 2, 3, 4, 5])
    assert list(own) == list(flowers)
    for name, array in flowers.items():
        assert own[name].dtype == array.dtype
        assert own[name].data == array.data


def test_of_those_that_are_missing_it_makes_up_for_the_weight():
    flowers, own = _averaged([2, 5])
    for name, value in flowers.to_torch_state_dict().items():
        torch.testing.assert_close(own.to_torch_state_dict()[name], value)
    assert _averaged([])[1] is None


class Clients(Grid):
    """Real clients in this process. Notes of each exchange who is asked, and how many earlier replies are in memory."""

    run = set_run = create_message = push_messages = pull_messages = None

    def __init__(self):
        self.asked, self.alive, self.told, self._replies = [], [], [], weakref.WeakSet()

    def get_node_ids(self):
        return [1000 - partition for partition in range(CLIENTS)]

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        self.alive.append(len(self._replies))
        self.asked.append([1000 - message.metadata.dst_node_id for message in messages])
        found = []
        for message in messages:
            node = message.metadata.dst_node_id
            reply = app(message, Context(1, node, {"partition-id": 1000 - node}, RecordDict(), {}))
            if message.metadata.message_type != "query":
                self._replies.add(reply)
                self.told += [1000 - node] if TRUTH in reply.content else []
            found.append(reply)
        return found


def _trained(folder, monkeypatch, size, **changes):
    monkeypatch.setattr(waves, "WAVE", size)
    monkeypatch.setenv(USER_PATH, json.dumps([str(folder)]))  # the clients set it
    federation = {**BASE["federation"], "clients": CLIENTS, "clients_per_round": CLIENTS, "rounds": 2}
    plan = Plan(work(**{"federation": federation, "victims": {"rounds": [1, 2], "clients": CLIENTS}, **changes}))
    inner = Clients()
    grid = OrderedGrid(inner, nodes=CLIENTS)
    del inner.asked[:], inner.alive[:]
    run_cell(grid, plan, folder, folder.parent, Measurement(), deadline=60.0)
    return inner


def _files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_cell_in_waves_is_the_same_cell_and_holds_on_to_no_wave(tmp_path, monkeypatch):
    waved = _trained(tmp_path / "waved", monkeypatch, 2)
    assert waved.asked == 2 * [[0, 1], [2, 3], [4, 5], [6]]
    assert max(waved.alive) <= 2  # at most those of the wave before
    whole = _trained(tmp_path / "whole", monkeypatch, 500)
    assert whole.asked == 2 * [list(range(CLIENTS))]
    assert _files(tmp_path / "waved") == _files(tmp_path / "whole")


def test_attacked_clients_alone_say_what_they_trained_on(tmp_path, monkeypatch):
    """For thousands of others it would be measured and packed for nobody."""
    inner = _trained(tmp_path / "cell", monkeypatch, 2, victims={"rounds": [2], "clients": 3})
    assert inner.told == [0, 1, 2]
    summary = read_json(tmp_path / "cell" / "cell.json")
    assert [(length["round"], length["client"]) for length in summary["lengths"]] == [(2, 0), (2, 1), (2, 2)]
    assert summary["faults"] == []
    assert observations.listed(tmp_path / "cell") == [(2, 0), (2, 1), (2, 2)]


def test_a_sum_is_one_over_all_waves_of_its_round(tmp_path, monkeypatch):
    secure = [{"name": "secure_aggregation"}]
    _trained(tmp_path / "waved", monkeypatch, 2, defense=secure)
    assert observations.listed(tmp_path / "waved") == [(1, SUM), (2, SUM)]
    assert observations.clients_of(tmp_path / "waved", 1, SUM) == list(range(CLIENTS))
    _trained(tmp_path / "whole", monkeypatch, 500, defense=secure)
    assert _files(tmp_path / "waved") == _files(tmp_path / "whole")


def test_flowers_own_average_comes_to_the_same_accuracy(tmp_path, monkeypatch):
    _trained(tmp_path / "own", monkeypatch, 2)
    how = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
    monkeypatch.setattr(server, "_strategy", lambda plan, partition_of: FedAvg(**how))
    listing = _trained(tmp_path / "flowers", monkeypatch, 2)
    assert max(listing.alive) == 6  # it makes a list: all but the last wave
    assert _files(tmp_path / "own") == _files(tmp_path / "flowers")
    assert len(read_json(tmp_path / "own" / "cell.json")["accuracy"]) == 3


class Sized(Grid):
    run = set_run = create_message = push_messages = pull_messages = get_node_ids = None

    def __init__(self):
        self.sizes = []

    def send_and_receive(self, messages, *, timeout=None):
        self.sizes.append(len(messages))
        return []


@pytest.mark.parametrize(
    ("heavy", "at_once", "sizes"),
    [(False, 1, [200] * 5 + [1]), (True, 1, [63] * 15 + [56]), (True, 40, [160] * 6 + [41])],
    ids=["light", "heavy", "heavy, on many processors"],
)
def test_a_wave_is_as_large_as_memory_and_processors_say(heavy, at_once, sizes, monkeypatch):
    monkeypatch.setattr(waves, "BYTES", 2**20)
    content = RecordDict({"arrays": ArrayRecord({"weight": torch.zeros(4100 if heavy else 10)})})
    grid = Sized()
    asked = [Message(content, dst_node_id=node + 1, message_type="train") for node in range(1001)]
    assert list(Waves(grid, at_once=lambda: at_once).send_and_receive(asked, timeout=60.0)) == []
    assert grid.sizes == sizes

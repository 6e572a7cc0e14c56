"""Whatever one client answers costs its own rows only: one federation in which nearly every client answers nonsense."""

from __future__ import annotations

import io
import json
import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from federation_cells import BASE, work
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from safetensors.torch import save

from fedsim import observations
from fedsim.federation.client import TRUTH, app
from fedsim.federation.grid import OrderedGrid
from fedsim.federation.plan import Plan
from fedsim.federation.server import run_cell
from fedsim.federation.workers import Measurement
from fedsim.files import read_json
from fedsim.paths import USER_PATH


def _arrays(change):
    """The reply with other arrays."""

    def spoil(content: RecordDict) -> RecordDict:
        content["arrays"] = ArrayRecord(OrderedDict(change(content["arrays"].to_torch_state_dict())))
        return content

    return spoil


def _entry(change):
    """The reply with another first array."""

    def other(state):
        first = next(iter(state))
        return {**state, first: change(state[first])}

    return _arrays(other)


def _array(data: bytes, *, dtype: str = "float32", stype: str = "numpy.ndarray"):
    """The reply with an array of these bytes."""

    def spoil(content: RecordDict) -> RecordDict:
        record = content["arrays"]
        first = next(iter(record))
        record[first] = Array(dtype=dtype, shape=record[first].shape, stype=stype, data=data)
        return content

    return spoil


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _header(shape: tuple[int, ...]) -> bytes:
    """What announces an array of a shape, and holds 8 bytes of it."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(8)


def _metrics(**values):
    """The reply that says other things of itself."""

    def spoil(content: RecordDict) -> RecordDict:
        content["metrics"] = MetricRecord({**content["metrics"], **values})
        return content

    return spoil


def _with(name: str, record):
    """The reply with one more record, or another of that name."""

    def spoil(content: RecordDict) -> RecordDict:
        if record is None:
            del content[name]
        else:
            content[name] = record
        return content

    return spoil


def _envelope(**tensors):
    return _with(TRUTH, ConfigRecord({"safetensors": save(tensors)}))


def _nan(value):
    value = value.clone()
    value.view(-1)[0] = math.nan
    return value


NO_KEY = MetricRecord({"loss": 0.5})
SMALL = {"labels": torch.zeros(2, dtype=torch.int64), "loss": torch.tensor(1.0)}
MALFORMED = {
    "NaN": (_entry(_nan), "NaN or infinity"),
    "infinity": (_entry(lambda value: torch.full_like(value, math.inf)), "NaN or infinity"),
    "complex": (_entry(lambda value: value.to(torch.complex64)), "complex numbers"),
    "float16": (_entry(lambda value: value.half()), "is of type float16, not float32"),
    "float64": (_entry(lambda value: value.double()), "is of type float64, not float32"),
    "whole numbers": (_entry(lambda value: value.to(torch.int64)), "is of type int64, not float32"),
    "turned": (_entry(lambda value: value.T.contiguous()), "has shape"),
    "a number": (_entry(lambda value: value.sum()), "has shape"),
    "ten times the size": (_entry(lambda value: value.repeat(10, 1)), "has shape"),
    "ten times the arrays": (
        _arrays(lambda state: {f"{name}{copy}": value for name, value in state.items() for copy in range(10)}),
        "not those of the model",
    ),
    "one array missing": (_arrays(lambda state: dict(list(state.items())[1:])), "missing"),
    "no arrays in the record": (_arrays(lambda state: {}), "a list of arrays without names"),
    "no record of arrays": (_with("arrays", None), "holds no arrays"),
    "two records of arrays": (_with("more", ArrayRecord({"x": torch.zeros(2)})), "the reply holds 2 records of arrays"),
    "bytes of no array": (_array(b"\x93NUMPY and more"), "cannot be read"),
    "no bytes": (_array(b""), "cannot be read"),
    "objects": (_array(_npy(np.array([{"a": 1}, None], dtype=object)), dtype="object"), "cannot be read"),
    "a pickle": (_array(b"cos\nsystem\n(S'true'\ntR.", stype="pickle"), "cannot be read"),
    "40 TB announced": (_array(_header((10**13,))), "cannot be read"),
    "text": (_array(_npy(np.array(["a", "b"])), dtype="<U1"), "cannot be read"),
    "no num-examples": (_with("metrics", NO_KEY), "does not say num-examples"),
    "NaN examples": (_metrics(**{"num-examples": math.nan}), "num-examples is nan"),
    "-1 examples": (_metrics(**{"num-examples": -1}), "num-examples is -1"),
    "0 examples": (_metrics(**{"num-examples": 0}), "num-examples is 0"),
    "2^62 examples": (_metrics(**{"num-examples": 2**62}), "num-examples is 4611686018427387904"),
    "a list of examples": (_metrics(**{"num-examples": [2, 2]}), "num-examples is [2, 2]"),
    "no metrics": (_with("metrics", None), "does not say num-examples"),
    "two records of metrics": (_with("more", MetricRecord({"num-examples": 7})), "several records of metrics"),
    "no length": (_metrics(bytes=math.nan), "bytes is nan"),
    "no envelope": (_with(TRUTH, None), "holds no envelope"),
    "an envelope of another kind": (_with(TRUTH, MetricRecord({"safetensors": 1})), "holds no envelope"),
    "an envelope without its bytes": (_with(TRUTH, ConfigRecord({"other": 1})), "envelope cannot be opened"),
    "garbage in the envelope": (_with(TRUTH, ConfigRecord({"safetensors": b"garbage"})), "cannot be opened"),
    "an empty envelope": (_envelope(), "cannot be opened"),
    "no pictures in the envelope": (_envelope(images=torch.zeros(3), **SMALL), "its images are no pictures"),
    "other pictures in the envelope": (
        _envelope(images=torch.zeros(2, 3, 5, 5, dtype=torch.uint8), **SMALL),
        "holds images of shape (3, 5, 5)",
    ),
    "an error": ("ValueError: boom", "the client raised ValueError: boom"),
    "silence": (None, "no reply before the round's deadline"),
}
HONEST = 2
CLIENTS = len(MALFORMED) + HONEST


class Clients(Grid):
    """Real clients in this process; what each of the first ones answers is then spoilt. They come last in the node
    ids, so that ids are not partitions."""

    run = set_run = create_message = push_messages = pull_messages = None

    def get_node_ids(self):
        return [1000 - partition for partition in range(CLIENTS)]

    def send_and_receive(self, messages, *, timeout=None):
        return [reply for message in messages if (reply := self.reply(message)) is not None]

    def reply(self, message):
        partition = 1000 - message.metadata.dst_node_id
        context = Context(1, message.metadata.dst_node_id, {"partition-id": partition}, RecordDict(), {})
        reply = app(message, context)
        if message.metadata.message_type == "query" or partition < HONEST:
            return reply
        spoil, _ = list(MALFORMED.values())[partition - HONEST]
        if spoil is None:
            return None
        if isinstance(spoil, str):
            return Message(Error(code=2, reason=spoil), reply_to=message)
        reply.content = spoil(reply.content)
        return reply


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A cell of two rounds."""
    folder = tmp_path_factory.mktemp("malformed")
    federation = {**BASE["federation"], "clients": CLIENTS, "clients_per_round": CLIENTS, "rounds": 2}
    plan = Plan(work(federation=federation, victims={"rounds": [1, 2], "clients": CLIENTS}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(USER_PATH, json.dumps([str(folder)]))  # the clients set it
        for part in ("_task_id", "_run_id", "_node_id"):
            patch.setattr(TaskIdentity, part, 1)
        grid = OrderedGrid(Clients(), nodes=CLIENTS)
        run_cell(grid, plan, folder / "cell", folder, Measurement(), deadline=60.0)
    return folder / "cell"


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_amiss_with_a_reply_is_said_of_its_client(trained, kind):
    client = HONEST + list(MALFORMED).index(kind)
    faults = [fault for fault in read_json(trained / "cell.json")["faults"] if fault["client"] == client]
    assert [fault["round"] for fault in faults] == [1, 2]
    for fault in faults:
        assert MALFORMED[kind][1] in fault["reason"]
        assert len(fault["reason"]) <= 300
        assert "\n" not in fault["reason"]


def test_everybody_else_is_observed_and_the_model_learns_of_them(trained):
    assert observations.listed(trained) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    summary = json.loads((trained / "cell.json").read_text())
    assert len(summary["accuracy"]) == 3
    assert all(math.isfinite(value) for value in summary["accuracy"])
    assert len(set(summary["accuracy"])) > 1

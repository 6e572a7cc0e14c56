"""What Flower's SecAgg+ lets its server see is what `secure_aggregation` lets ours see, up to what it quantizes away.

The protocol is Flower's own, server and clients: keys, shares, masks, sums of them. Its messages are carried by hand,
since the workflow speaks to clients of Flower's older kind (`fit`), and to no strategy of the kind that we run.
"""

from __future__ import annotations

import copy

import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common import recorddict_compat
from flwr.server import ServerConfig
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.supercore.task_identity import TaskIdentity

import defenses

WEIGHTS = (3, 8, 5)
MOST, CLIPPING, LEVELS = 10.0, 4.0, 2**22
UPDATES = [
    {
        "w": torch.randn(6, 5, generator=torch.Generator().manual_seed(i)),
        "b": torch.randn(6, generator=torch.Generator().manual_seed(10 + i)),
    }
    for i in range(3)
]


class Proxy(ClientProxy):
    """Known to the server; what it says goes by way of the grid."""

    def __init__(self, node: int) -> None:
        super().__init__(str(node))
        self.node_id = node

    get_properties = get_parameters = fit = evaluate = reconnect = lambda self, *arguments: None


class Wire:
    """Carries messages to the clients and back, and keeps what the server is sent. Some clients are gone in a stage."""

    def __init__(self, silent: dict[int, str]) -> None:
        self.seen: list[dict[int, RecordDict]] = []
        self._silent = silent
        self._nodes = {
            node: Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
            for node in range(len(UPDATES))
        }

    def send_and_receive(self, messages, timeout=None):
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            message = copy.deepcopy(message)  # as on a wire: the protocol takes keys out of what it is sent
            stage = str(message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE])
            if stage == self._silent.get(node):
                replies.append(Message(Error(code=1, reason="gone"), reply_to=message))
            else:
                replies.append(secaggplus_mod(message, self._nodes[node], self._client))
        self.seen.append({reply.metadata.src_node_id: reply.content for reply in replies if not reply.has_error()})
        return replies

    def _client(self, message: Message, context: Context) -> Message:
        arrays = ndarrays_to_parameters([value.numpy() for value in UPDATES[context.node_id].values()])
        result = FitRes(Status(Code.OK, ""), arrays, WEIGHTS[context.node_id], {})
        return Message(recorddict_compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)


@pytest.fixture(autouse=True)
def _inside_a_flower_task(monkeypatch):
    for part in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, part, 1)


def summed(silent: dict[int, str] | None = None) -> tuple[dict[str, torch.Tensor], Wire]:
    """What the server of a round of SecAgg+ holds at the end, and the wire."""
    wire, manager = Wire(silent or {}), SimpleClientManager()
    for node in range(len(UPDATES)):
        manager.register(Proxy(node))
    context = LegacyContext(
        context=Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={}),
        config=ServerConfig(num_rounds=1),
        strategy=FedAvg(min_fit_clients=3, min_available_clients=3),
        client_manager=manager,
    )
    initial = ndarrays_to_parameters([value.numpy() * 0 for value in UPDATES[0].values()])
    context.state.array_records["parameters"] = recorddict_compat.parameters_to_arrayrecord(initial, True)
    context.state.config_records["config"] = ConfigRecord({"current_round": 1})
    run = SecAggPlusWorkflow(3, 2, max_weight=MOST, clipping_range=CLIPPING, quantization_range=LEVELS)
    run(wire, context)
    found = recorddict_compat.arrayrecord_to_parameters(context.state.array_records["parameters"], True)
    return dict(zip(UPDATES[0], map(torch.from_numpy, parameters_to_ndarrays(found)), strict=True)), wire


def ours(clients) -> dict[str, torch.Tensor]:
    defense = defenses.create("secure_aggregation")
    return defense.on_aggregate([UPDATES[i] for i in clients], [WEIGHTS[i] for i in clients])


def allowed(clients) -> float:
    """Weighted entries are rounded to one of two neighbours on a grid, weights to the nearest on another."""
    step, share = 2 * CLIPPING / LEVELS, sum(WEIGHTS[i] for i in clients) / MOST
    return len(clients) * (step + CLIPPING / LEVELS) / share


@pytest.mark.parametrize("silent", [{}, {1: Stage.COLLECT_MASKED_VECTORS}], ids=["all", "one drops out"])
def test_its_mean_is_ours(silent):
    clients = [i for i in range(3) if i not in silent]
    theirs, wire = summed(silent)
    for name, value in ours(clients).items():
        off = (theirs[name].double() - value.double()).abs().max()
        assert 0 < off <= allowed(clients)
    plain = {i: torch.cat([value.flatten() for value in UPDATES[i].values()]) for i in clients}
    stage = wire.seen[2]
    assert set(stage) == set(clients)
    for node, content in stage.items():
        sent = content.config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
        arrays = [torch.from_numpy(bytes_to_ndarray(one).astype(float)).flatten() for one in sent]
        masked = torch.cat(arrays)[1:]  # behind the weight
        assert abs(torch.corrcoef(torch.stack([masked, plain[node].double()]))[0, 1]) < 0.6  # of 36 entries
        assert masked.std() > 2**29  # spread over the whole range of the masks

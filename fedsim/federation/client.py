"""The Flower client: tells the server which partition it holds, and trains when it is asked to.

The work arrives as JSON in the message's config record, so that one simulation serves many cells with the same actors.
What an attacked client truly trained on leaves in a config record of its own, as bytes (`fedsim.truth`): a research
instrument that a real client has not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fedsim import hardware, truth
from fedsim.federation.overdue import ended_after
from fedsim.federation.plan import Plan
from fedsim.federation.round import train_client
from fedsim.files import key_of
from fedsim.paths import USER_PATH
from fedsim.scenario.work import Work

app = ClientApp()

TRUTH = "truth"
BYTES = "bytes"
"""How long the update would be, sent by a code that fits it: here it travels as plain arrays."""


@app.query()
def query(message: Message, context: Context) -> Message:
    """Answer with the partition this node holds: Flower's node ids are random, partitions are not."""
    partition = int(context.node_config["partition-id"])
    return Message(RecordDict({"node": MetricRecord({"partition": partition})}), reply_to=message)


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """One round of local training; replies with the gradient or the weights.

    Raises:
        Overdue: it takes longer than the deadline that it was told.
    """
    try:
        with ended_after(float(message.content.config_records["config"]["deadline"])):  # type: ignore[arg-type]
            return _train(message, context)
    except SystemExit as left:  # Ray would take it for the wish that this process serve no client ever again
        raise RuntimeError(f"its code called sys.exit({left.code!r})") from left


def _train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    hardware.exact()
    config = message.content.config_records["config"]
    os.environ[USER_PATH] = str(config["user-path"])
    plan = Plan(Work.from_dict(json.loads(str(config["work"]))), str(config["salt"]))
    round = int(config["server-round"])  # type: ignore[arg-type]
    client = int(context.node_config["partition-id"])
    device = torch.device("cuda" if plan.federation.resources.gpus > 0 else "cpu")

    model = plan.model()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    memory = _Memory(context, plan)
    trained = train_client(plan, model, client=client, round=round, device=device, memory=memory.before(round))
    result = trained.result
    memory.keep(round, result.played.memory)
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
        "arrays": ArrayRecord({name: value.cpu() for name, value in result.arrays.items()}),
        "metrics": MetricRecord({"num-examples": len(trained.labels)}),
    }
    if client in plan.victims(round):  # of others nobody asks what they trained on
        bits = plan.defense().bits(result.played.update)
        records["metrics"] = MetricRecord({"num-examples": len(trained.labels), BYTES: -(-bits // 8)})
        envelope = truth.pack(truth.Truth.of_round(trained.pixels, trained.labels, result.played))
        records[TRUTH] = ConfigRecord({"safetensors": envelope})
    return Message(RecordDict(records), reply_to=message)


class _Memory:
    """What a client's defense remembers from round to round, in the context that Flower keeps of a node.

    One context serves all cells of a simulation, and a round may be asked for twice: each cell has its own, and a round
    that is repeated starts from what was remembered before it.
    """

    def __init__(self, context: Context, plan: Plan) -> None:
        self._records, self._cell = context.state.array_records, key_of(plan.work.to_dict())

    def before(self, round: int) -> dict[str, Tensor]:
        for earlier in range(round - 1, 0, -1):
            if (name := self._name(earlier)) in self._records:
                return dict(self._records[name].to_torch_state_dict())
        return {}

    def keep(self, round: int, memory: Mapping[str, Tensor]) -> None:
        if memory:
            self._records[self._name(round)] = ArrayRecord({name: value.cpu() for name, value in memory.items()})

    def _name(self, round: int) -> str:
        return f"memory {self._cell} {round}"

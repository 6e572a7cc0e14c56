"""The Flower client: tells the server which partition it holds, and trains when it is asked to.

The work arrives as JSON in the message's config record, so that one simulation serves many cells with the same actors.
What the client truly trained on leaves in a config record of its own, as bytes (`fedsim.truth`): a research instrument
that a real client has not.
"""

from __future__ import annotations

import json
import os

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim import truth
from fedsim.federation.plan import Plan
from fedsim.federation.round import client_round
from fedsim.paths import USER_PATH

app = ClientApp()

TRUTH = "truth"


@app.query()
def query(message: Message, context: Context) -> Message:
    """Answer with the partition this node holds: Flower's node ids are random, partitions are not."""
    partition = int(context.node_config["partition-id"])
    return Message(RecordDict({"node": MetricRecord({"partition": partition})}), reply_to=message)


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """One round of local training; replies with the gradient or the weights."""
    torch.set_num_threads(1)
    config = message.content.config_records["config"]
    os.environ[USER_PATH] = str(config["user-path"])
    plan = Plan(json.loads(str(config["work"])), str(config["salt"]))
    round = int(config["server-round"])  # type: ignore[arg-type]
    client = int(context.node_config["partition-id"])
    device = torch.device("cuda" if plan.federation["resources"]["gpus"] > 0 else "cpu")

    model = plan.model()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    turn = client_round(plan, model, client=client, round=round, device=device)
    result = turn.result
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
        "arrays": ArrayRecord({name: value.cpu() for name, value in result.arrays.items()}),
        "metrics": MetricRecord({"num-examples": len(turn.labels)}),
    }
    if plan.attacked(round):
        noise = {path: drawn.cpu() for path, drawn in result.noise.items()}
        envelope = truth.pack(truth.Truth(turn.pixels, turn.labels, noise, result.loss))
        records[TRUTH] = ConfigRecord({"safetensors": envelope})
    return Message(RecordDict(records), reply_to=message)

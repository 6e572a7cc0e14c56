"""What `fedsim.Eavesdropper` costs: time of a round through Flower, and memory where many clients send a large model.

    python benchmarks/eavesdropper.py time   [--clients 10] [--megabytes 1] [--images 400] [--rounds 10] [--json]
    python benchmarks/eavesdropper.py memory [--clients 100] [--megabytes 50] [--json]

`time` runs Flower's simulation, with clients that train a small convolutional net for one epoch on `--images` random
images of 28 x 28, SGD with momentum, batches of 32; with none they return what they received, and no round is shorter.
`listening` is the median time of a round that the eavesdropper itself takes, conversion and writing, and `share` what
that is of the median round with it; `without` is the median round of the bare strategy, run before it. Flower looks for
replies every 0.1 s, so that rounds are multiples of that.

`memory` hands the eavesdropper the replies of one round, all with the same bytes, so that next to nothing but its own
memory is added: `peak` is by how much the process's peak grew (Linux: kilobytes of `ru_maxrss`) over what it was with
the messages built. The records go to a temporary folder: clients x megabytes, which must fit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from flwr.supercore.task_identity import TaskIdentity
from patch_embedding import show
from torch import nn

import fedsim
from fedsim.recording import Store
from fedsim.recording.ear import Ear

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["time", "memory"])
    parser.add_argument("--clients", type=int)
    parser.add_argument("--megabytes", type=float)
    parser.add_argument("--images", type=int, default=400, help="of a client, for `time`")
    parser.add_argument("--rounds", type=int, default=10, help="for `time`")
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    arguments = parser.parse_args()
    default = (10, 1.0) if arguments.what == "time" else (100, 50.0)
    clients, megabytes = arguments.clients or default[0], arguments.megabytes or default[1]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "observations"
        if arguments.what == "time":
            row = of_time(store, clients, net(megabytes), arguments.images, arguments.rounds)
        else:
            row = of_memory(store, clients, net(megabytes))
    rows = [{"clients": clients, "megabytes": megabytes, **row}]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)


def net(megabytes: float) -> nn.Module:
    """A model of this size in float32, nearly all of it in its hidden layer."""
    hidden = max(1, int(megabytes * MIB / 4 / (8 * 14 * 14 + 11)))
    head = [nn.Flatten(), nn.Linear(8 * 14 * 14, hidden), nn.ReLU(), nn.Linear(hidden, 10)]
    return nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), *head)


def train(model: nn.Module, images: int) -> None:
    torch.set_num_threads(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for batch in torch.randn(images, 1, 28, 28).split(32) if images else ():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), torch.randint(10, (len(batch),))).backward()
        optimizer.step()


def of_time(store: Path, clients: int, model: nn.Module, images: int, rounds: int) -> dict[str, Any]:
    bare, _ = rounds_of(None, clients, model, images, rounds)
    listened, listening = rounds_of(store, clients, model, images, rounds)
    own, whole = statistics.median(listening), statistics.median(listened)
    return {
        "images": images,
        "without": f"{statistics.median(bare):.3f} s",
        "with": f"{whole:.3f} s",
        "listening": f"{own:.3f} s",
        "share": f"{own / whole:.1%}",
    }


def rounds_of(
    store: Path | None, clients: int, model: nn.Module, images: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Of each round but the first, in which actors start: its seconds, and those of them that went into listening."""
    began: list[float] = []
    listening: list[float] = []

    def timed(method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                listening[-1] += time.perf_counter() - start

        return call

    class Timed(FedAvg):
        def configure_train(self, server_round: int, *args: Any) -> Any:
            began.append(time.perf_counter())
            listening.append(0.0)
            return super().configure_train(server_round, *args)

    server, client = ServerApp(), ClientApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = Timed(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
        if store is not None:
            strategy = fedsim.Eavesdropper(strategy, store=store)
            strategy._ear.asked, strategy._ear.answered = timed(strategy._ear.asked), timed(strategy._ear.answered)
        strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=rounds + 1)
        began.append(time.perf_counter())

    @client.train()
    def reply(message: Message, context: Context) -> Message:
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        train(model, images)
        content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    run_simulation(server, client, num_supernodes=clients)
    if store is not None and len(Store.open(store).listed()) != clients * (rounds + 1):
        raise RuntimeError(f"not all was recorded: {Store.open(store).faults()[:3]}")
    return [end - start for start, end in itertools.pairwise(began[1:])], listening[1:]


def of_memory(store: Path, clients: int, model: nn.Module) -> dict[str, Any]:
    for part in ("_task_id", "_run_id", "_node_id"):  # only a task that knows who it is may make messages
        setattr(TaskIdentity, part, 1)
    recorder = fedsim.Eavesdropper(FedAvg(), store=store)
    ear: Ear = recorder._ear
    sent, back = ArrayRecord(model.state_dict()), ArrayRecord(model.state_dict())
    config = ConfigRecord({"server-round": 1})
    asked = [
        Message(RecordDict({"arrays": sent, "config": config}), dst_node_id=node, message_type="train")
        for node in range(1, clients + 1)
    ]
    replies = [
        Message(RecordDict({"arrays": back, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
        for message in asked
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    ear.asked(asked)
    ear.answered(replies, final=None)
    seconds = time.perf_counter() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    written = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    return {"peak": f"{peak:.0f} MiB", "written": f"{written / MIB:.0f} MiB", "seconds": f"{seconds:.1f}"}


if __name__ == "__main__":
    main()

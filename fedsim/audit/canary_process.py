"""One round of somebody's client app, in a process of its own: `python -m fedsim.audit.canary_process FOLDER`.

The folder holds the request (`fedsim.audit.canary` writes it) and takes the answer: safetensors and JSON. The user's
code is imported after all hooks are in place, so that names which it binds on import are those that are watched.
"""

from __future__ import annotations

import faulthandler
import importlib
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.audit.canary_facts import judged
from fedsim.audit.canary_form import Images, Refusal
from fedsim.audit.canary_items import Loaders
from fedsim.audit.canary_modes import watching
from fedsim.audit.canary_watch import Watch
from fedsim.files import read_json, read_tensors, write_json, write_tensors
from fedsim.recording.records import Records, alike, parted

DAY = 86400.0

NETWORK = ("ConnectionError", "ConnectError", "gaierror", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "URLError")
"""Classes of errors, of whatever library, that say that something could not be reached."""


def main(folder: Path) -> None:
    """Answer the request in a folder: `answer.json` with `facts`, or with `refused`, or with `raised`."""
    request = read_json(folder / "request.json")
    hangs = (folder / "hangs").open("w")
    faulthandler.register(signal.SIGUSR1, file=hangs)  # sent when its time is over
    try:
        answer = answered(folder, request)
    except Refusal as refusal:
        answer = {"refused": str(refusal)}
    except BaseException as error:  # the user's code may raise anything, SystemExit included
        answer = {"raised": said(error, Path(request["app"]))}
    write_json(folder / "answer.json", answer)


def answered(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    seed = request["seed"]
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    sent = read_tensors(folder / "sent.safetensors")
    sent = {name: sent[name] for name in request["names"]}  # the file has an order of its own
    known = read_tensors(folder / "images.safetensors")
    mean, std = (torch.tensor(request[name], dtype=torch.float32) for name in ("mean", "std"))
    loaders = Loaders(Images(known["pixels"], known["labels"], mean, std), request["batch_size"])
    loaders.install()
    watch = Watch(sent)
    message = parted(read_tensors(folder / "message.safetensors"), request["message"])
    message = {record: {name: message[record][name] for name in order} for record, order in request["message"].items()}
    with watching(watch):
        received, metrics = _round(request, sent, message)
    received = _renamed(received, sent)
    result = judged(watch, loaders, received)
    write_tensors(folder / "received.safetensors", received)
    write_tensors(folder / "noise.safetensors", {f"noise.{site}": mask for site, mask in result.noise.items()})
    write_tensors(folder / "gradient.safetensors", result.gradient)
    return {
        "facts": result.facts.to_dict(),
        "order": result.order,
        "metrics": metrics,
        "names": list(received),
    }


def _round(
    request: dict[str, Any], sent: dict[str, Tensor], records: Records
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One train message to the client app; the arrays of its reply that are the model, and its metrics."""
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, Metadata, RecordDict

    sys.path.insert(0, request["app"])
    module, _, attribute = request["clientapp"].partition(":")
    app: Any = importlib.import_module(module)
    for part in attribute.split("."):
        app = getattr(app, part)
    if getattr(app, "_call", None) is not None:  # made of a `client_fn`: the older form of message
        content = _older(sent, request["config"])
    else:
        content = RecordDict({name: ArrayRecord(dict(arrays)) for name, arrays in records.items()})
        content[request["record"]] = ConfigRecord(dict(request["config"]))
    about = Metadata(
        run_id=1,
        message_id="1",
        src_node_id=1,
        dst_node_id=2,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=DAY,
        message_type="train",
    )
    message = Message(content=content, metadata=about)
    context = Context(
        run_id=1, node_id=2, node_config=request["node_config"], state=RecordDict(), run_config=request["run_config"]
    )
    reply = app(message, context)
    if reply.has_error():
        raise Refusal(f"the client answers with an error: {reply.error.reason}")
    back = {
        record: {name: torch.from_numpy(np.array(array.numpy())) for name, array in arrays.items()}
        for record, arrays in reply.content.array_records.items()
    }
    received = _model_of(back, sent, request["received_in"])
    metrics = {name: value for record in reply.content.metric_records.values() for name, value in record.items()}
    return received, metrics


def _model_of(back: Records, sent: dict[str, Tensor], wanted: list[str]) -> dict[str, Tensor]:
    """The arrays of a reply that are the model: of the records that are named, or of the only one that could be."""
    fitting = [record for record, arrays in back.items() if alike(arrays, sent)]
    names = wanted or (list(back) if len(back) == 1 else fitting)
    if not wanted and len(names) != 1:
        raise Refusal(f"the client's reply holds {len(back)} records of arrays, {len(names)} of which are the model's")
    if missing := [record for record in names if record not in back]:
        raise Refusal(f"the client's reply has no record {missing[0]!r} of arrays, as it had when it was recorded")
    return {name: value for record in names for name, value in back[record].items()}


def _older(sent: dict[str, Tensor], config: dict[str, Any]) -> Any:
    from flwr.common import FitIns, ndarrays_to_parameters
    from flwr.compat.common.recorddict_compat import fitins_to_recorddict

    parameters = ndarrays_to_parameters([value.numpy() for value in sent.values()])
    return fitins_to_recorddict(FitIns(parameters, config), keep_input=True)


def _renamed(received: dict[str, Tensor], sent: dict[str, Tensor]) -> dict[str, Tensor]:
    """A list of arrays, whose names are numbers, under the names that were sent."""
    numbered = all(name.isdigit() for name in received)
    alike = [tuple(value.shape) for value in received.values()] == [tuple(value.shape) for value in sent.values()]
    return dict(zip(sent, received.values(), strict=True)) if numbered and alike else received


def said(error: BaseException, app: Path) -> str:
    """An error in one line: what it says, where in the client's own code, and whether it is about the network."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).resolve().is_relative_to(app.resolve())]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    line = " ".join(traceback.format_exception_only(error)[-1].split())[:300]
    kinds = {kind.__name__ for one in chain for kind in type(one).__mro__}
    network = "needs the network and does not reach it: " if kinds & set(NETWORK) else ""
    return f"{network}{line}{where}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

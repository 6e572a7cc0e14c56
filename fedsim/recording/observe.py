"""Recording without Flower: anybody's state dicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.errors import BadInput
from fedsim.recording.recorded import Recorded, Value
from fedsim.recording.store import MARKER, Store


def observe(
    sent: Mapping[str, Any],
    received: Mapping[str, Any],
    *,
    store: str | Path | Store,
    round: int = 1,
    node: str | int = "0",
    metrics: Mapping[str, Value] | None = None,
    config: Mapping[str, Value] | None = None,
) -> None:
    """Record what one client was sent and what it returned in one round, from any framework.

        fedsim.observe(model.state_dict(), update, store="observations/", round=3, node="hospital-7")

    Args:
        sent: the weights that the client was sent, by name: tensors, NumPy arrays or numbers.
        received: what came back under the same names and in the same shapes: the weights after training, not their
            change (where a framework sends the change, add it to what was sent).
        store: a folder; made if it is not there.
        round: counted from 1.
        node: the client's name.
        metrics: what the client told of itself, e.g. `{"num-examples": 32}`.
        config: what the client was told, e.g. `{"lr": 0.1}`.

    Raises:
        BadInput: the arrays do not fit together or are not of numbers, the entry is there already, or the folder is
            something else.
    """
    where = f"round {round}, node {node}"
    if isinstance(round, bool) or not isinstance(round, int) or round < 0:
        raise BadInput(f"round = {round!r}: a round is a number")
    recorded = Recorded(
        round,
        str(node),
        {name: _tensor(value, f"{where}: sent {name}") for name, value in sent.items()},
        {name: _tensor(value, f"{where}: received {name}") for name, value in received.items()},
        dict(metrics or {}),
        dict(config or {}),
    )
    if not isinstance(store, Store):
        store = Store.open(store) if (Path(store) / MARKER).is_file() else Store.create(store)
    store.add(recorded)


def _tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    try:
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError, RuntimeError) as error:  # nested dicts, objects, ragged lists
        raise BadInput(f"{where} is {type(value).__name__}, not a tensor or an array of numbers") from error

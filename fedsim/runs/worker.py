"""What runs in Ray's processes during the attacks: it is given tensors and plain data, and no path to anywhere."""

from __future__ import annotations

import math
import time
from typing import Any

from fedsim.errors import reason_of
from fedsim.runs.parcel import Parcel
from fedsim.runs.progress import Signal

REPORT_SECONDS = 0.5


class Board:
    """What the jobs under way say of themselves, by key. An actor, since they may run on other machines."""

    def __init__(self) -> None:
        self._said: dict[str, Signal] = {}

    def say(self, key: str, signal: Signal) -> None:
        self._said[key] = signal

    def forget(self, key: str) -> None:
        self._said.pop(key, None)

    def said(self) -> dict[str, Signal]:
        return self._said


def compute(key: str, board: Any, parcel: Parcel) -> Parcel | str:
    """Compute the `fedsim.runs.attack.Task` in a parcel.

    Args:
        key: the job's, under which the board hears of it.
        board: the handle of a `Board`.

    Returns:
        the `Answer`, in a parcel; or why there is none, in one line: one job's fault costs its own rows only.
    """
    import torch

    from fedsim.runs.attack import respond

    torch.set_num_threads(1)
    last = 0.0

    def report(done: int, most: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_SECONDS:
            last = now
            board.say.remote(key, Signal(done / max(most, 1), loss if math.isfinite(loss) else None))

    board.say.remote(key, Signal(0.0, None))
    try:
        return Parcel.of(respond(parcel.open(), report))
    except Exception as fault:
        return reason_of(fault)

"""Processes that measure what defenses cost, beside the simulation: one for each processor of the cluster.

They claim no processor, as the simulation's actors have claimed them all and are idle most of the time.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from fedsim.federation import cost
from fedsim.federation.plan import Plan
from fedsim.federation.start import adding_parameters, initial_state
from fedsim.files import key_of, read_json, write_json
from fedsim.paths import USER_PATH, told
from fedsim.scenario.work import Work


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=1)  # one that died with a training serves the next one
class _Worker:
    """Trains one thing after the other, on one thread however many the processor has: equal results everywhere."""

    def __init__(self, user_path: str) -> None:
        os.environ[USER_PATH] = user_path
        torch.set_num_threads(1)

    def utility(self, work: Work, start: dict[str, Tensor]) -> float | None:
        return cost.utility(work, start)

    def reachable(self, work: Work, start: dict[str, Tensor]) -> float | None:
        return cost.reachable(work, start)


@dataclass(frozen=True)
class Measurement:
    """What is being measured for one cell; `result` waits for it.

    Args:
        utility: what Ray promises; None where the cell has no `utility` block.
        reachable: likewise; None where it is known already or not wanted.
        file: where the reachable accuracy is kept; None where it is not wanted.
    """

    utility: Any = None
    reachable: Any = None
    file: Path | None = None

    def result(self) -> dict[str, float | None]:
        if self.reachable is not None and self.file is not None and not self.file.exists():
            write_json(self.file, {"accuracy": ray.get(self.reachable)})
        return {
            "utility": None if self.utility is None else ray.get(self.utility),
            "utility_reachable": None if self.file is None else read_json(self.file)["accuracy"],
        }


class Workers:
    """Runs measurements; inside a Ray that runs.

    Args:
        count: how many processes.
        store: where the pretrained states are, and where reachable accuracies are kept.
    """

    def __init__(self, count: int, store: Path) -> None:
        self._store = store
        self._all = [_Worker.remote(told()[USER_PATH]) for _ in range(count)]  # type: ignore[attr-defined]
        self._next = itertools.cycle(self._all)
        self._starts: dict[str, Any] = {}
        self._utilities: dict[str, Any] = {}
        self._reachable: dict[Path, Any] = {}

    def begin(self, work: Work) -> Measurement:
        """Begin what a cell's `utility` block asks for; what is the same training in several cells is done once."""
        if work.utility is None:
            return Measurement()
        wanted, work = work.utility, replace(work, malicious=None)  # a training that is not attacked
        start = self._start(work)
        training = key_of(cost.training_of(Plan(work)).work.to_dict())
        if training not in self._utilities:
            self._utilities[training] = next(self._next).utility.remote(work, start)
        utility = self._utilities[training]
        if wanted.reachable is None:
            return Measurement(utility)
        file = self._store / f"reachable-{cost.reachable_key(work)}.json"
        if file not in self._reachable and not file.exists():
            self._reachable[file] = next(self._next).reachable.remote(work, start)
        return Measurement(utility, self._reachable.get(file), file)

    def end(self) -> None:
        for worker in self._all:
            ray.kill(worker)

    def _start(self, work: Work) -> Any:
        """The initial state in Ray's object store: one copy for all cells that start from it."""
        key = start_key(work)
        if key not in self._starts:
            self._starts[key] = ray.put(initial_state(Plan(work), self._store))
        return self._starts[key]


def start_key(work: Work) -> str:
    """A hash of all that a cell's initial state depends on: its defense only where that adds parameters."""
    return key_of(
        {
            "data": work.data,
            "content": work.content,
            "source": work.source,
            "start": work.start.to_dict(),
            "seed": work.seed,
            "model": {**work.model, "dropout": None},
            "defenses": adding_parameters(work),
            "precision": work.federation.local.precision,
        }
    )


@contextmanager
def workers(works: list[Work], store: Path) -> Iterator[Workers]:
    """As many workers as there are processors and trainings; none where no cell has a `utility` block."""
    wanted = 2 * sum(work.utility is not None for work in works)
    found = Workers(min(wanted, int(ray.cluster_resources().get("CPU", 1))), store)
    try:
        yield found
    finally:
        found.end()

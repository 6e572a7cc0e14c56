"""What a run would do, how long it might take and what it needs: `fedsim plan`, and `fedsim run --dry-run`.

Attacks, trainings and processes are tried on a little of the work (`fedsim.runs.probes`, `fedsim.runs.calibration`),
and added up for the nodes (`fedsim.runs.needs`). What an attack takes is an upper bound: it may converge before.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fedsim.federation.start import pretrained_file
from fedsim.files import key_of
from fedsim.runs import calibration, probes
from fedsim.runs.directory import RunDirectory
from fedsim.runs.jobs import Attempt, attempts, cell_key, cells_of, expected, jobs_of
from fedsim.runs.needs import Needs, Nodes, Todo, needs
from fedsim.scenario import Cell, Scenario
from fedsim.scenario.work import Work

Say = Callable[[str], None]


def plan_table(scenario: Scenario, out: Path, nodes: Nodes | None = None, *, say: Say = lambda text: None) -> Group:
    """The cells with their jobs, and the total: what is done already, what is to do, how long at most, in what memory.

    Args:
        nodes: by default this machine.
        say: told what is being measured.
    """
    nodes = nodes or Nodes(1, os.cpu_count() or 1)
    torch.set_num_threads(1)  # as an attack job
    todo, table = counted(scenario, out, say)
    say("measuring a process that starts")
    found = needs(todo, calibration.measured(), nodes)
    return Group(table, Text(_said(todo, found, nodes)))


def counted(scenario: Scenario, out: Path, say: Say = lambda text: None) -> tuple[Todo, Table]:
    """What is left to do, measured, and a table with a row for each cell."""
    table = Table("cell", "model", "data", "defense", "seed", "jobs", "attacks at most", title=scenario.name)
    directory = RunDirectory(out)
    before = _most_memory()
    trained: dict[str, Work] = {}
    seen: set[str] = set()
    begun: set[str] = set()
    pretraining: dict[Path, float] = {}
    costs: dict[str, float] = {}
    jobs, attacking, longest, working = 0, 0.0, 0.0, 0
    attacked, unattacked = 0.0, 0.0
    cells = cells_of(directory, scenario)
    for number, cell in enumerate(cells, 1):
        key, work = cell_key(cell), cell.work()
        name = work.model.get("name") or work.model["factory"]
        batch = work.federation.local.batch_size
        say(f"measuring cell {number} of {len(cells)}: {work.data['name']}, {name}, batch {batch}, {cell.label}")
        final = directory.cell(key).exists() and not directory.lost(key)
        state = "shared" if key in seen else "trained" if final else "new"
        todo = _jobs(directory, cell, trained=final, counted=begun)
        each = [probes.attack(cell, attempt, costs) for attempt, _ in todo]
        cost = sum(seconds * count for seconds, (_, count) in zip(each, todo, strict=True))
        own = sum(count for _, count in todo)
        jobs, attacking, longest = jobs + own, attacking + cost, max(longest, *each, 0.0)
        working = max(working, _most_memory() - before)
        if state == "new":
            trained[key] = work
            attacked += work.federation.rounds * work.federation.clients_per_round * probes.client(work, costs)
            unattacked += probes.unattacked(work, costs) if work.utility is not None else 0.0
            if work.start.pretrain is not None:
                path = pretrained_file(work, directory.pretrained)
                if path not in pretraining and not path.exists():
                    pretraining[path] = probes.pretraining(work, work.start.pretrain.steps)
        seen.add(key)
        if (training := work.start.pretrain) is not None:
            name += f", pretrained {training.steps} steps"
        elif work.start.checkpoint is not None:
            name += ", checkpoint"
        row = (f"{key[:8]} {state}", name, work.data["name"], cell.label, str(cell.seed))
        table.add_row(*row, str(own) if own else "-", _duration(cost) if cost else "-")
    works = list(trained.values())
    groups = {(work.federation.clients, work.federation.resources) for work in works}
    counts = Todo(
        cells=len(works),
        simulations=len(groups),
        clients=sum(clients for clients, _ in groups),
        messages=sum(work.federation.rounds * work.federation.clients_per_round for work in works),
        training=attacked,
        models=len(pretraining),
        pretraining=sum(pretraining.values()),
        unattacked=unattacked,
        trainings=2 * sum(work.utility is not None for work in works),
        jobs=jobs,
        attacking=attacking,
        longest=longest,
        weight=max((probes.weight(work) for work in works), default=0),
        working=working,
    )
    return counts, table


def _jobs(directory: RunDirectory, cell: Cell, *, trained: bool, counted: set[str]) -> list[tuple[Attempt, int]]:
    """The attacks on a cell that have jobs left, and how many.

    Args:
        counted: the attacks that were counted before, on cells that share their training; these are added.
    """
    there = list(jobs_of(directory, cell)) if trained else []
    found: list[tuple[Attempt, int]] = []
    for attempt in attempts(cell):
        mark = key_of([cell_key(cell), *attempt, cell.scenario.engine.model_dump()])
        own = [job for job in there if (job.attack, job.grants) == tuple(attempt)]
        left = [job for job in own if not (directory.job(job.key) / "job.json").exists()]
        count = len(left) if trained else expected(cell)
        if mark not in counted and count:
            found.append((attempt, count))
        counted.add(mark)
    return found


def _said(todo: Todo, found: Needs, nodes: Nodes) -> str:
    work = f"{todo.cells} cells to train, {todo.jobs} attack jobs"
    if todo.models:
        work = f"{todo.models} models to pretrain in about {_duration(todo.pretraining)}, {work}"
    where = f"{nodes.count} x {nodes.processors} processors" if nodes.count > 1 else f"{nodes.processors} processors"
    memory = f"{found.first / 1e9:.1f} GB"
    if nodes.count > 1:
        memory += f" on the first, {found.other / 1e9:.1f} GB on each other"
    return (
        f"{work}; at most about {_duration(found.seconds)} on {where} (attacks stop when they converge)\n"
        f"processor seconds: {found.starting:.0f} to start processes, for messages and files; at most "
        f"{found.working:.0f} to train and attack; memory: {memory}"
    )


def _most_memory() -> int:
    """Bytes that this process had at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

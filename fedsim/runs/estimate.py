"""What a run would do and how long it might take: `fedsim run --dry-run`.

The time of an attack is measured, not guessed: each distinct pair of model and attack runs a few iterations on made-up
victims in this process. Its budget of iterations is an upper bound, since attacks stop when they have converged.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

import attacks
from attacks import NotApplicable, Observation, ThreatModel
from defenses.client.round import ORDER
from fedsim import decoders, models, observations
from fedsim.federation.cost import training_of
from fedsim.federation.plan import Plan
from fedsim.federation.start import pretrained, pretrained_file
from fedsim.federation.unattacked import final_state
from fedsim.local import observed, train
from fedsim.models import entries
from fedsim.runs.attack import threat_model_of
from fedsim.runs.directory import RunDirectory
from fedsim.runs.jobs import Attempt, attempts, cell_key, cells_of, expected
from fedsim.scenario import Cell, Scenario
from fedsim.scenario.work import Work

START_SECONDS = 15.0
"""Ray and the first actors (measured: 12 to 16 s on 2 cores)."""
CELL_SECONDS = 2.0
"""One small cell in a simulation that runs already; large models take longer."""
PROBES = (2, 12)
PRETRAIN_PROBES = (1, 4)
UTILITY_PROBES = (1, 3)


def plan_table(scenario: Scenario, out: Path) -> Group:
    """The cells with their jobs, and the total: what is done already, what is to do, how long at most."""
    torch.set_num_threads(1)  # as an attack job
    directory = RunDirectory(out)
    table = Table("cell", "model", "data", "defense", "seed", "jobs", "attacks at most", title=scenario.name)
    seconds, jobs, trained, seen = 0.0, 0, 0, set()
    pretraining: dict[Path, float] = {}
    unattacked = 0.0
    costs: dict[str, float] = {}
    for cell in cells_of(directory, scenario):
        key = cell_key(cell)
        work, rounds = cell.work(), len(cell.scenario.victims.rounds)
        chunks = expected(cell)
        tried = attempts(cell)
        final = directory.cell(key).exists() and not directory.lost(key)
        state = "shared" if key in seen else "trained" if final else "new"
        cost = 0.0
        if state != "shared":
            cost = sum(_cost(cell, attempt, costs) for attempt in tried) * rounds
            jobs += chunks * len(tried)
            seconds += cost
            trained += state == "new"
            if state == "new" and work.start.pretrain is not None:
                path = pretrained_file(work, directory.pretrained)
                if path not in pretraining and not path.exists():
                    pretraining[path] = _pretraining(work, work.start.pretrain.steps)
            if state == "new" and work.utility is not None:
                unattacked += _unattacked(work)
        seen.add(key)
        name = work.model.get("name") or work.model["factory"]
        if (training := work.start.pretrain) is not None:
            name += f", pretrained {training.steps} steps"
        elif work.start.checkpoint is not None:
            name += ", checkpoint"
        row = (f"{key[:8]} {state}", name, work.data["name"], cell.label, str(cell.seed))
        table.add_row(*row, str(chunks * len(tried)) if state != "shared" else "-", _duration(cost) if cost else "-")
    before = sum(pretraining.values())
    processors = max(1, os.cpu_count() or 1)
    total = START_SECONDS + before + max(CELL_SECONDS * trained, unattacked / processors) + seconds / processors
    total_work = f"{trained} cells to train, {jobs} attack jobs"
    if pretraining:
        total_work = f"{len(pretraining)} models to pretrain in about {_duration(before)}, {total_work}"
    return Group(table, Text(f"{total_work}; at most about {_duration(total)} (attacks stop when they converge)"))


def _pretraining(work: Work, steps: int) -> float:
    """Seconds that a pretraining takes, measured on its first steps."""
    marks = [time.perf_counter()]
    for count in PRETRAIN_PROBES:
        pretrained(Plan(work), steps=min(count, steps))
        marks.append(time.perf_counter())
    few, more = (later - earlier for earlier, later in itertools.pairwise(marks))
    return few + max(0.0, more - few) / (PRETRAIN_PROBES[1] - PRETRAIN_PROBES[0]) * steps


def _unattacked(work: Work) -> float:
    """Seconds of the training that a `utility` block asks for, measured on its first rounds."""
    plan = training_of(Plan(work))
    rounds, start = plan.federation.rounds, plan.model().state_dict()
    marks = [time.perf_counter()]
    for count in UTILITY_PROBES:
        few = replace(plan.federation, rounds=min(count, rounds))
        final_state(Plan(replace(plan.work, federation=few)), start, device=torch.device("cpu"))
        marks.append(time.perf_counter())
    one, more = (later - earlier for earlier, later in itertools.pairwise(marks))
    return one + max(0.0, more - one) / (UTILITY_PROBES[1] - UTILITY_PROBES[0]) * rounds


def _cost(cell: Cell, attempt: Attempt, known: dict[str, float]) -> float:
    """Seconds of one job on all victims of a round, measured on made-up victims."""
    work = cell.work()
    probe = {
        "model": work.model,
        "data": work.data,
        "attack": attempt.attack,
        "grants": attempt.grants,
        "local": work.federation.local.to_dict(),
        "defense": work.defense,
    }
    key = json.dumps([probe, cell.scenario.victims.clients], sort_keys=True)
    if key not in known:
        known[key] = _measure(cell, attempt)
    return known[key]


def _measure(cell: Cell, attempt: Attempt) -> float:
    spec, grants = attempt
    iterations = spec.get("iterations")
    if iterations is None:
        return 0.1
    counts = [min(count, iterations) for count in PROBES]
    few, more = (_timed(cell, Attempt({**spec, "iterations": count}, grants)) for count in counts)
    per_iteration = max(0.0, more - few) / (PROBES[1] - PROBES[0])
    return few + per_iteration * iterations


def _timed(cell: Cell, attempt: Attempt) -> float:
    victims, threat_model, model = _made_up(cell, attempt)
    attack = attacks.create(**decoders.built(attempt.attack, input_shape=victims[0].input_shape))
    attack.compile = "never"
    started = time.perf_counter()
    answers = attack.run(victims, threat_model, model, seed=0)
    return 0.0 if isinstance(answers[0], NotApplicable) else time.perf_counter() - started


def _made_up(cell: Cell, attempt: Attempt) -> tuple[list[Observation], ThreatModel, torch.nn.Module]:
    """Victims that train on noise images, as many as a job of this cell has."""
    plan = Plan(cell.work())
    dataset, local, shape = plan.dataset, plan.local, plan.dataset.input_shape
    state = {name: value.detach().clone() for name, value in plan.model().state_dict().items()}
    count = len(plan.batch(0, 1)[1])
    labels = torch.zeros(count, dtype=torch.int64)
    victims = []
    for client in range(min(cell.scenario.victims.clients, cell.scenario.engine.chunk)):
        model, images = plan.client_model(), torch.randn(count, *shape, dtype=plan.dtype)
        result = train(
            model,
            images,
            labels,
            local=local,
            defense=plan.defense(),
            seed=0,
            client=client,
            round=1,
            classes=len(dataset.classes),
        )
        update = {name: result.arrays[name] for name in sorted(entries.trained(plan.client_model()).values())}
        if local.share == "weights":
            update = {name: value - state[name] for name, value in update.items()}
        seen = replace(
            observed(dataset, local, state=state, update=update),
            examples=count,
            labels=labels,
            noise={name: value for name, value in result.played.drawn.items() if name != ORDER},
            order=result.played.drawn.get(ORDER),
            client=client,
        )
        victims.append(observations.to(seen, torch.device("cpu"), torch.float32))
    threat_model = threat_model_of(attempt.attack, attempt.grants)
    return victims, threat_model, models.build(plan.model_spec(), input_shape=shape, classes=len(dataset.classes))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

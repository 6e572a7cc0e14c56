"""What the parts of a run take, each measured on a little of it in this process, on one thread: in processor seconds,
so that other work on the machine makes little difference.

An attack runs a few iterations on made-up victims; its budget of iterations is an upper bound, since attacks stop when
they have converged. A training is timed on its first steps or rounds, a client on a round of its own.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace

import torch

import attacks
from attacks import NotApplicable, Observation, ThreatModel
from defenses.client.round import ORDER
from fedsim import decoders, models, observations
from fedsim.federation.cost import training_of
from fedsim.federation.plan import Plan
from fedsim.federation.round import train_client
from fedsim.federation.start import pretrained
from fedsim.federation.unattacked import final_state
from fedsim.local import observed, train
from fedsim.models import entries
from fedsim.runs.attack import threat_model_of
from fedsim.runs.jobs import Attempt
from fedsim.scenario import Cell
from fedsim.scenario.work import Work

PROBES = (2, 12)
PRETRAIN_PROBES = (1, 4)
UTILITY_PROBES = (1, 3)
CLIENT_PROBES = 2


def client(work: Work, known: dict[str, float]) -> float:
    """Seconds of one client's round, the model built anew as the client does: the last of a few, as data are read and
    memory is found by the first."""
    described = {name: value for name, value in work.to_dict().items() if name not in ("seed", "victims")}
    key = json.dumps(["client", described], sort_keys=True)
    if key not in known:
        plan = Plan(work)
        for _ in range(CLIENT_PROBES):
            began = time.process_time()
            train_client(plan, plan.model(), client=0, round=1, device=torch.device("cpu"))
            known[key] = time.process_time() - began
    return known[key]


def weight(work: Work) -> int:
    """Bytes of what one client sends, as plain arrays."""
    return sum(value.numel() * value.element_size() for value in Plan(work).model().state_dict().values())


def pretraining(work: Work, steps: int) -> float:
    """Seconds that a pretraining takes, measured on its first steps."""
    marks = [time.process_time()]
    for count in PRETRAIN_PROBES:
        pretrained(Plan(work), steps=min(count, steps))
        marks.append(time.process_time())
    few, more = (later - earlier for earlier, later in itertools.pairwise(marks))
    return few + max(0.0, more - few) / (PRETRAIN_PROBES[1] - PRETRAIN_PROBES[0]) * steps


def unattacked(work: Work) -> float:
    """Seconds of the training that a `utility` block asks for, measured on its first rounds."""
    plan = training_of(Plan(work))
    rounds, start = plan.federation.rounds, plan.model().state_dict()
    marks = [time.process_time()]
    for count in UTILITY_PROBES:
        few = replace(plan.federation, rounds=min(count, rounds))
        final_state(Plan(replace(plan.work, federation=few)), start, device=torch.device("cpu"))
        marks.append(time.process_time())
    one, more = (later - earlier for earlier, later in itertools.pairwise(marks))
    return one + max(0.0, more - one) / (UTILITY_PROBES[1] - UTILITY_PROBES[0]) * rounds


def attack(cell: Cell, attempt: Attempt, known: dict[str, float]) -> float:
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
    started = time.process_time()
    answers = attack.run(victims, threat_model, model, seed=0)
    return 0.0 if isinstance(answers[0], NotApplicable) else time.process_time() - started


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

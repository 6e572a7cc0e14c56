"""What the parts of a run take, each measured on a little of it in this process, on one thread: in processor seconds,
so that other work on the machine makes little difference.

Of what consists of many equal parts (iterations, steps, rounds) a few are timed, the fewer the longer they take, and
the rest follows from them. Nothing is timed twice that takes the same: `known` holds what was found. The budget of an
attack's iterations is an upper bound, since attacks stop when they have converged.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import attacks
from attacks import NotApplicable, Observation, ThreatModel
from attacks.statistics import revealed
from defenses import stochastic
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
from fedsim.scenario.work import Spec, Work

ENOUGH = 0.25
"""Seconds that were timed of something after which no more of it is."""
LONG = 1.5
"""Seconds of a first part after which not even a second number of them is timed."""
ITERATIONS = (2, 8)
STEPS = (1, 1, 2, 4, 8, 16)
"""One step twice, as data are read and memory is found by the first."""


def extrapolated(timed: Callable[[int], float], count: int, tries: Iterable[int]) -> float:
    """Seconds of `count` equal parts, from those of a few.

    Args:
        timed: the seconds of so many parts.
        tries: how many to time, one after the other; after `ENOUGH` seconds no further ones, unless only one number was
            timed: the first part may take longer than others.
    """
    found = {0: 0.0}
    spent = 0.0
    for number in [number for number in tries if number <= count] or [count]:
        found[number] = timed(number)
        spent += found[number]
        if spent > (ENOUGH if len(found) > 2 else LONG):
            break
    *_, few, many = sorted(found)
    each = max(0.0, found[many] - found[few]) / (many - few)
    return found[many] + each * (count - many)


def client(work: Work, known: dict[str, float]) -> float:
    """Seconds of one client's round, the model built anew as the client does."""
    key = _key("client", work)
    if key not in known:
        plan = Plan(work)
        steps = plan.local.training.count(plan.examples(0), plan.local.batch_size)
        known[key] = extrapolated(lambda number: _round(_of_steps(work, number)), steps, STEPS)
    return known[key]


def weight(work: Work) -> int:
    """Bytes of what one client sends, as plain arrays."""
    return sum(value.numel() * value.element_size() for value in Plan(work).model().state_dict().values())


def pretraining(work: Work, steps: int) -> float:
    """Seconds that a pretraining takes."""
    return extrapolated(lambda number: _timed(lambda: pretrained(Plan(work), steps=number)), steps, STEPS)


def unattacked(work: Work, known: dict[str, float]) -> float:
    """Seconds of the training that a `utility` block asks for: all of its clients' rounds, and the averaging.

    Measured on rounds of one client and one step each; what its further steps take is what they take a client.
    """
    training = training_of(Plan(work)).work
    rounds, short = training.federation.rounds, _of_steps(training, 1)
    key = _key("unattacked", short)
    if key not in known:
        start = Plan(training).model().state_dict()
        known[key] = extrapolated(lambda number: _alone(short, number, start), rounds, STEPS) / rounds
    each = known[key]
    if training.federation.local != short.federation.local:
        each += max(0.0, client(training, known) - client(short, known))
    return rounds * training.federation.clients_per_round * each


def attack(cell: Cell, attempt: Attempt, known: dict[str, float]) -> float:
    """Seconds of one job on all victims of a round, measured on made-up victims.

    A defense that the attacker is not told of makes no difference to what it computes, beside that to the model.
    """
    iterations = attempt.attack.get("iterations")
    if iterations is None:
        return 0.1
    work, threat_model = cell.work(), threat_model_of(attempt.attack, attempt.grants)
    told = "known" in (threat_model.defense, threat_model.noise)
    model = Plan(work).model_spec()
    seen_as = work if told else replace(work, model=model, defense=())
    key = _key("attack", seen_as, attempt.attack, threat_model.as_dict(), _victims(cell))
    if key not in known:
        seen = _granted(json.dumps(work.to_dict(), sort_keys=True), threat_model)
        victims = [replace(seen.observation, client=client) for client in range(_victims(cell))]
        known[key] = extrapolated(
            lambda number: _attacked(victims, seen.model, {**attempt.attack, "iterations": number}, threat_model),
            iterations,
            ITERATIONS,
        )
    return known[key]


def _key(what: str, work: Work, *more: Any) -> str:
    """Equal where the same is timed: neither the seed nor how often it is done makes a difference."""
    plain = work.to_dict()
    alike = [plain["model"], plain["data"], plain["defense"], work.federation.local.to_dict(), plain.get("malicious")]
    return json.dumps([what, *alike, work.federation.clients, *more], sort_keys=True)


def _of_steps(work: Work, steps: int) -> Work:
    """The same with so many local steps, whatever the epochs."""
    local = work.federation.local
    training = replace(local.training, steps=steps, epochs=None)
    return replace(work, federation=replace(work.federation, local=replace(local, training=training)))


def _timed(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def _round(work: Work) -> float:
    plan = Plan(work)
    return _timed(lambda: train_client(plan, plan.model(), client=0, round=1, device=torch.device("cpu")))


def _alone(work: Work, rounds: int, start: dict[str, torch.Tensor]) -> float:
    """Seconds of so many rounds of one client."""
    few = replace(work.federation, rounds=rounds, clients_per_round=1)
    return _timed(lambda: final_state(Plan(replace(work, federation=few)), start, device=torch.device("cpu")))


def _attacked(victims: list[Observation], model: Spec, attack: Spec, threat_model: ThreatModel) -> float:
    """Processor seconds of an attack, uncompiled; 0 where it does not apply."""
    shape, classes = victims[0].input_shape, victims[0].classes
    algorithm = attacks.create(**decoders.built(attack, input_shape=shape))
    algorithm.compile = "never"
    built = models.build(model, input_shape=shape, classes=classes, seed=0)
    stochastic.begin(built, 1)
    began = time.process_time()
    answers = algorithm.run(victims, threat_model, built, seed=0)
    return 0.0 if isinstance(answers[0], NotApplicable) else time.process_time() - began


def _victims(cell: Cell) -> int:
    """How many a job of this cell attacks at most."""
    return min(cell.scenario.victims.clients, cell.scenario.engine.chunk)


def _granted(work: str, threat_model: ThreatModel) -> observations.Seen:
    """What a made-up victim shows an attacker who is granted this; one is enough, as an attack takes as long on the
    same images as on others."""
    observation, model, derived, public = _made_up(work)
    with tempfile.TemporaryDirectory() as folder:
        cell = Path(folder)
        observations.save(cell, observation, model=model, derived=derived)
        if threat_model.auxiliary_data == "public" and len(public):
            observations.save_public(cell, public)
        seen = observations.load(cell, observation.round, observation.client, threat_model)
    return replace(seen, observation=observations.to(seen.observation, torch.device("cpu"), torch.float32))


@lru_cache(maxsize=1)
def _made_up(work: str) -> tuple[Observation, Spec, dict[str, str], torch.Tensor]:
    """All there is to see of a client that trains on noise images: with it, how to build the model, what follows from
    the federation, and the public images. For one cell after another: they are as large as models."""
    plan = Plan(Work.from_dict(json.loads(work)))
    dataset, local = plan.dataset, plan.local
    model, count = plan.client_model(), plan.images(0)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    labels = torch.zeros(count, dtype=torch.int64)
    result = train(
        model,
        torch.randn(count, *dataset.input_shape, dtype=plan.dtype),
        labels,
        local=local,
        defense=plan.defense(),
        seed=0,
        client=0,
        round=1,
        classes=len(dataset.classes),
    )
    trained = sorted(entries.trained(model).values())
    update = {name: result.arrays[name] for name in trained}
    if local.share == "weights":
        update = {name: value - state[name] for name, value in update.items()}
    buffers = {name: value for name, value in result.arrays.items() if name in entries.buffers(model)}
    observation = replace(
        observed(dataset, local, state=state, update=update),
        buffers=buffers,
        examples=count,
        labels=labels,
        noise={name: value for name, value in result.played.drawn.items() if name != ORDER},
        order=result.played.drawn.get(ORDER),
        defense=plan.work.defense,
        round=1,
        client=0,
    )
    derived: dict[str, str] = {"client_mode": local.mode, "batch_norm": revealed(state, buffers)}
    return observation, plan.model_spec(), derived, dataset.public

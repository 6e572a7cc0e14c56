"""What a scenario's keys must satisfy together: each rule yields the path it blames and one line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

import attacks
import defenses
from defenses.base import Deployment
from defenses.client import optimizers, schedules
from fedsim.errors import on_one_line
from fedsim.scenario.document import KeyPath, Problem, format_path
from fedsim.scenario.members import SGD, Member
from fedsim.scenario.schema import Scenario, label_of, specs_of
from fedsim.scenario.sources import Folder, Npz
from fedsim.scenario.training import Local


def check(scenario: Scenario) -> None:
    """Raise the first `Problem` of a scenario whose keys are valid one by one."""
    for rule in _RULES:
        for path, message in rule(scenario):
            raise Problem(path, message)


def check_machine(scenario: Scenario) -> None:
    """Raise the first `Problem` of what a scenario asks of the machine it runs on: it would wait for more for ever.

    On a Ray cluster that runs already only that cluster can say (`fedsim.runs.cluster.check_capacity`).
    """
    for path, message in _resources(scenario):
        raise Problem(path, message)


def _seeds(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    yield from _repeated(("seeds",), scenario.seeds, str)


def _grants(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    for aspect, values in scenario.threat_model:
        if isinstance(values, tuple):
            yield from _repeated(("threat_model", aspect), values, str)


def _metrics(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    yield from _repeated(("metrics",), scenario.metrics, str)


def _federation(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    federation, local = scenario.federation, scenario.federation.local
    if federation.clients_per_round > federation.clients:
        message = f"{federation.clients_per_round} clients a round, but there are only {federation.clients} clients"
        yield ("federation", "clients_per_round"), message
    if federation.resources.gpus > 1 and not federation.resources.gpus.is_integer():
        message = f"{federation.resources.gpus} GPUs; accepted: a part of one, or a whole number"
        yield ("federation", "resources", "gpus"), message
    if local.share == "gradient" and local.steps != 1:
        message = f"share: gradient needs steps: 1, not {local.steps}; use share: weights for several local steps"
        yield ("federation", "local", "steps"), message
    if local.share == "gradient" and local.epochs is not None:
        yield ("federation", "local", "epochs"), "share: gradient is of one step; use share: weights for epochs"
    if local.share == "gradient" and local.optimizer != SGD:
        message = "share: gradient sends the gradient before any optimizer; use share: weights"
        yield ("federation", "local", "optimizer"), message
    for key in ("schedule", "groups"):
        if local.share == "gradient" and getattr(local, key):
            yield ("federation", "local", key), f"share: gradient is sent before any step; use share: weights for {key}"
    if local.epochs is not None and local.steps != 1:
        yield ("federation", "local", "steps"), "give either epochs or steps"
    if local.examples is not None and local.epochs is None:
        yield ("federation", "local", "examples"), "says how many examples epochs go through, but there are no epochs"
    for optimizer, schedule, path in _trained(local):
        if optimizer is not None:
            yield from _refused((*path, "optimizer"), optimizer, optimizers.create)
        if schedule is not None:
            yield from _refused((*path, "schedule"), schedule, schedules.create)


def _trained(local: Local) -> Iterator[tuple[Member | None, Member | None, KeyPath]]:
    """The optimizer and the schedule of all parameters, and of each group."""
    yield local.optimizer, local.schedule, ("federation", "local")
    for number, group in enumerate(local.groups):
        yield group.optimizer, group.schedule, ("federation", "local", "groups", number)


def _victims(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    victims, federation = scenario.victims, scenario.federation
    if victims.clients > federation.clients_per_round:
        message = f"{victims.clients} victims, but only {federation.clients_per_round} clients take part in a round"
        yield ("victims", "clients"), message
    if victims.development >= victims.clients:
        message = f"{victims.development} of {victims.clients} victims for development leave none to report"
        yield ("victims", "development"), message
    for i, number in enumerate(victims.rounds):
        if number > federation.rounds:
            yield ("victims", "rounds", i), f"round {number} of a federation of {federation.rounds} (federation.rounds)"
    yield from _repeated(("victims", "rounds"), victims.rounds, str)


def _resources(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    resources, cpus = scenario.federation.resources, os.cpu_count() or 1
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if resources.cpus > cpus:
        message = f"{resources.cpus}, but this machine has {cpus}; accepted: 1 to {cpus}"
        yield ("federation", "resources", "cpus"), message
    if resources.gpus > gpus:
        found = f"this machine has {gpus}" if gpus else "torch finds no GPU on this machine"
        yield ("federation", "resources", "gpus"), f"{found}; accepted: {f'0 to {gpus}' if gpus else '0'}"
    if gpus == 0 and scenario.engine.device == "cuda":
        yield ("engine", "device"), "torch finds no GPU on this machine; accepted: auto, cpu"


def _attacks(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    for i, attack in enumerate(scenario.attacks):
        yield from _refused(("attacks", i), attack, attacks.create)
    yield from _repeated(("attacks",), scenario.attacks, lambda attack: str(attack.spec()), Member.label)


def _defenses(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    for i, parts in enumerate(scenario.defenses):
        for j, part in enumerate(parts):
            yield from _refused(("defenses", i, j), part, defenses.create)
        try:
            defenses.compose(specs_of(parts))
        except ValueError as error:
            yield ("defenses", i), on_one_line(error)
    yield from _repeated(("defenses",), scenario.defenses, label_of, label_of)


def _deployed(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    """A defense that would leave everything as it is: its rows would be those of no defense, under its name."""
    federation = scenario.federation
    for i, parts in enumerate(scenario.defenses):
        local = with_overrides(federation.local, specs_of(parts))
        deployment = Deployment(
            batch_size=min(local.batch_size, local.examples or local.batch_size),
            clients=federation.clients_per_round,
            rounds=federation.rounds,
        )
        for j, part in enumerate(parts):
            defense = defenses.create(**part.spec())
            reason = defense.refuses(deployment)
            if defense.local_overrides() and with_overrides(federation.local, [part.spec()]) == federation.local:
                reason = f"{part.name}: federation.local is so without it"
            if reason is not None:
                yield _blamed(("defenses", i, j), part, reason), reason


def with_overrides(local: Local, defense: Sequence[Mapping[str, Any]]) -> Local:
    """The block `federation.local` with what a defense replaces in it."""
    return local.model_copy(update=defenses.compose(defense).local_overrides())


def _summed(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    """Where the server sees sums, all clients of a round are attacked, and they are attacked together."""
    victims, together = scenario.victims, scenario.federation.clients_per_round
    for parts in scenario.defenses:
        if not defenses.compose(specs_of(parts)).aggregates:
            continue
        label = label_of(parts)
        if victims.clients != together:
            message = f"{victims.clients}, but under {label} the server sees one sum of a round; accepted: {together}"
            yield ("victims", "clients"), f"{message} (federation.clients_per_round)"
        if victims.development:
            message = f"{victims.development}, but under {label} all victims of a round are attacked as one"
            yield ("victims", "development"), f"{message}; accepted: 0"


def _start(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    start = scenario.model.start()
    if len(start) > 1:
        yield ("model", "checkpoint"), f"give either {' or '.join(start)}: each says where the weights come from"


def _own_files(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    source, checkpoint = scenario.data, scenario.model.checkpoint
    if checkpoint is not None:
        yield from _there(("model", "checkpoint"), checkpoint, os.path.isfile, "file")
    for i, attack in enumerate(scenario.attacks):
        decoder = getattr(attack, "decoder", None)
        if decoder is not None and decoder.checkpoint is not None:
            yield from _there(("attacks", i, "decoder", "checkpoint"), decoder.checkpoint, os.path.isfile, "file")
    if isinstance(source, Npz):
        yield from _there(("data", "path"), source.path, os.path.isfile, "file")
    if isinstance(source, Folder):
        yield from _there(("data", "path"), source.path, os.path.isdir, "folder")


def _there(path: KeyPath, given: str, found: Callable[[str], bool], kind: str) -> Iterator[tuple[KeyPath, str]]:
    """os.path answers No where pathlib raises: a name that is too long, a loop of links, a NUL."""
    if not found(given):
        what = "a folder" if os.path.isdir(given) else "a file" if os.path.isfile(given) else ""
        yield path, f"{_printable(given)}: " + (f"is {what}, not a {kind}" if what else f"no such {kind}")


def _printable(given: str) -> str:
    return given if given.isprintable() else ascii(given)


def _refused(path: KeyPath, member: Member, create: Callable[..., Any]) -> Iterator[tuple[KeyPath, str]]:
    """What the constructor itself says to the values; it blames the parameter that its message names."""
    spec = member.spec()
    try:
        create(**spec)
    except ValueError as error:
        yield _blamed(path, member, str(error)), on_one_line(error)


def _blamed(path: KeyPath, member: Member, message: str) -> KeyPath:
    """The parameter that a message about a member names, or the member."""
    named = [key for key in member.spec() if key != "name" and re.search(rf"\b{re.escape(key)}\b", message)]
    return (*path, *named[:1])


def _repeated(
    path: KeyPath, values: Sequence[Any], same: Callable[[Any], str], shown: Callable[[Any], str] = str
) -> Iterator[tuple[KeyPath, str]]:
    seen: Mapping[str, int] = {}
    for i, value in enumerate(values):
        first = seen.get(same(value))
        if first is not None:
            yield (*path, i), f"{shown(value)} stands in {format_path((*path, first))} already"
        seen = {**seen, same(value): i}


_RULES = (
    _seeds,
    _federation,
    _grants,
    _victims,
    _metrics,
    _attacks,
    _defenses,
    _deployed,
    _summed,
    _start,
    _own_files,
)

"""From a scenario to its work: the cells to train, and the attack jobs on what each cell's server saw."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import attacks
import defenses
from fedsim import decoders, observations
from fedsim.answers import JobSpec
from fedsim.files import key_of
from fedsim.random import seed_for
from fedsim.runs.directory import RunDirectory
from fedsim.runs.salt import hash_of
from fedsim.scenario import Cell, Scenario, every_cell
from fedsim.scenario.filled import filled, is_malicious
from fedsim.scenario.work import Spec
from fedsim.version import __version__


def cells_of(directory: RunDirectory, scenario: Scenario) -> list[Cell]:
    """A scenario's cells as they are in a run directory: with its salt, if it has one."""
    salt = directory.salt()
    hash = hash_of(salt) if salt else ""
    return [dataclasses.replace(cell, salt=hash) for cell in every_cell(scenario)]


def cell_key(cell: Cell) -> str:
    return key_of({"work": cell.work().to_dict(), "version": __version__})


def attack_specs(scenario: Scenario) -> list[Spec]:
    """The scenario's attacks with their parameters filled in, and the null attacks, which stand in every comparison."""
    named = [decoders.with_contents(filled(spec)) for spec in scenario.attack_specs()]
    present = {spec["name"] for spec in named}
    floors = [{"name": name} for name in attacks.names() if attacks.get(name).floor and name not in present]
    return [*named, *(filled(spec) for spec in floors)]


class Attempt(NamedTuple):
    """One of a scenario's attacks under one of its sets of grants."""

    attack: Spec
    grants: Mapping[str, str]


def attempts(cell: Cell) -> list[Attempt]:
    """Each attack on a cell under each set of grants that can make a difference to it: of a malicious server its own,
    of an honest one all others.

    What can make none is as the scenario lists it first: a grant that the attack does not use or is given anyhow, and
    one that there is nothing to know of, such as the defense of an undefended client. So it runs once, and has one row.
    """
    found: list[Attempt] = []
    first, *others = cell.scenario.grants()
    tried = [spec for spec in attack_specs(cell.scenario) if not is_malicious(spec)]
    for spec in tried if cell.malicious is None else [cell.malicious]:
        algorithm = attacks.get(spec["name"])
        decisive = (algorithm.uses() - algorithm.given.keys()) & cell.knowable()
        for grants in (first, *others):
            attempt = Attempt(spec, {name: (grants if name in decisive else first)[name] for name in first})
            found += [] if attempt in found else [attempt]
    return found


def expected(cell: Cell) -> int:
    """The jobs of each attempt on a cell that is not trained yet, if every victim is observed."""
    scenario = cell.scenario
    seen = 1 if defenses.compose(cell.defense).aggregates else scenario.victims.clients
    return math.ceil(seen / scenario.engine.chunk) * len(scenario.victims.rounds)


def jobs_of(directory: RunDirectory, cell: Cell) -> Iterator[JobSpec]:
    """The attack jobs on a cell that has been trained.

    A cell that lost clients is trained again when its run goes on, and its server may then see other things: until then
    what was seen is part of a job's identity.
    """
    key = cell_key(cell)
    lost = directory.lost(key)
    by_round: dict[int, list[int]] = {}
    for round, client in observations.listed(directory.cell(key)):
        by_round.setdefault(round, []).append(client)
    chunk = cell.scenario.engine.chunk
    for attempt in attempts(cell):
        for round, clients in by_round.items():
            for start in range(0, len(clients), chunk):
                own = tuple(clients[start : start + chunk])
                yield JobSpec(
                    cell=key,
                    round=round,
                    clients=own,
                    attack=attempt.attack,
                    grants=attempt.grants,
                    engine=cell.scenario.engine,
                    seed=seed_for(cell.seed, "attack"),
                    version=__version__,
                    observed=observations.digest(directory.cell(key), round, own) if lost else "",
                )

"""Repeat a part of somebody's scenario: one attack on some clients of one cell, through the whole pipeline.

The scenario comes from a stranger. It is validated like any other, and more is refused before anything of it is used: a
`factory`, which is code of theirs to import, and files, which are named by where they lay on their machine.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import attacks
import defenses
from fedsim import scenario as scenarios
from fedsim.errors import BadInput
from fedsim.files import key_of
from fedsim.runs.jobs import Attempt, attempts
from fedsim.scenario import Cell, Scenario, every_cell
from fedsim.scenario.document import KeyPath, Problem, format_path, parse_path
from fedsim.scenario.filled import is_malicious

_FILES = ("path", "checkpoint")


@dataclass(frozen=True)
class Part:
    """What is to be repeated.

    Args:
        definition: the whole scenario, as `Scenario.to_dict` gives it; files may stand there by name alone.
        setting: the cell's, as `Cell.setting` gives it; files by name alone. It holds the round.
        defense: the defense's parts in full.
        attack: its name.
        params: the attack's parameters in full.
        threat_model: what it was told, as its rows say.
        seed: which federation.
        clients: the first so many are attacked; all, where the server sees their sum.
    """

    definition: Mapping[str, Any]
    setting: Mapping[str, Any]
    defense: Sequence[Mapping[str, Any]]
    attack: str
    params: Mapping[str, Any]
    threat_model: Mapping[str, str]
    seed: int
    clients: int


@dataclass(frozen=True)
class Repetition:
    """A scenario of one cell and one attack; `together` and `formerly` say how many victims are attacked at once."""

    scenario: Scenario
    together: int
    formerly: int


def repetition(part: Part, overrides: Sequence[str] = (), *, allow_factory: bool = False) -> Repetition:
    """The scenario narrowed to a part of it; the federation itself is left as it was.

    Args:
        overrides: `a.b=value` options, for files that lie elsewhere here.
        allow_factory: import the model's factory.

    Raises:
        BadInput: the scenario is not valid, has no such part, or needs what was not allowed.
    """
    definition = {**copy.deepcopy(dict(part.definition)), "seeds": [part.seed]}
    _refuse(definition, overrides, allow_factory)
    whole = scenarios.parse(definition, overrides, rehearsed=False)
    cell, round = _cell(whole, part)
    spec, grants = _attempt(cell, part)
    count, chunk = cell.scenario.victims.clients, cell.scenario.engine.chunk
    summed = defenses.compose(list(cell.defense)).aggregates
    clients = count if summed else min(part.clients, count)
    if clients > chunk:  # the last chunk whole, too: what is attacked at once changes the last digits
        clients = min(math.ceil(clients / chunk) * chunk, count)
    back = attacks.get(part.attack).looks_back  # at what was seen before, which has to be seen again
    rounds = [other for other in cell.scenario.victims.rounds if other == round or (back and other < round)]
    narrow = cell.scenario.to_dict() | {
        "defenses": [list(cell.defense)],
        "attacks": [spec],
        "threat_model": grants,
        "victims": {"rounds": rounds, "clients": clients, "development": 0},
        "utility": None,
    }
    return Repetition(scenarios.parse(narrow), min(clients, chunk), min(count, chunk))


def _refuse(definition: dict[str, Any], overrides: Sequence[str], allow_factory: bool) -> None:
    given = [_target(option) for option in overrides]
    for path, value in _leaves(definition):
        named = tuple(part for part in path if isinstance(part, str))  # an item of a list belongs to the list's key
        key = named[-1].rpartition(".")[2]
        if value is None or any(path[: len(target)] == target for target in given):
            continue
        if key == "factory" and not allow_factory:
            raise BadInput(
                f"its scenario names the factory {value!r}, which is code to import; read it, then give --allow-factory"
            )
        if key in _FILES:
            raise BadInput(f"its scenario reads the file {value!r}; say where it is by --set {format_path(named)}=FILE")


def _leaves(node: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(value, (*path, key))
    else:
        yield path, node


def _target(option: str) -> KeyPath:
    try:
        return parse_path(option.partition("=")[0].strip())
    except Problem:
        return ()


def _cell(whole: Scenario, part: Part) -> tuple[Cell, int]:
    """The one cell, and round, of the part's setting and defense.

    A key that the setting does not name has its default: settings leave out many that have, and the version which wrote
    it may not have had it. So of those that say all that the setting says it is the one that says least besides.
    """
    wanted = _comparable(part.setting)
    found: dict[str, tuple[Cell, int]] = {}
    more: dict[str, int] = {}
    wanted_of = {**part.params, "name": part.attack}
    server = wanted_of if is_malicious(wanted_of) else None
    for cell in every_cell(whole):
        if cell.malicious != server:
            continue
        for round in cell.scenario.victims.rounds:
            setting = _comparable(cell.setting(round))
            if _alike(cell.defense, part.defense) and "round" in wanted and _says(setting, wanted):
                key = key_of(setting)
                found.setdefault(key, (cell, round))
                more[key] = _besides(setting, wanted)
    closest = [place for key, place in found.items() if more[key] == min(more.values())]
    if len(closest) > 1:
        raise BadInput(f"its scenario has {len(found)} federations of the entry's setting; it does not say which")
    if not found:
        raise BadInput(
            "its scenario has no federation of the entry's setting and defense here: it is of another version of "
            "fedsim, its files have another content, or one of the two was changed"
        )
    return closest[0]


def _comparable(setting: Mapping[str, Any]) -> dict[str, Any]:
    """A setting without the names of files: their content says which they are."""
    plain = copy.deepcopy(dict(setting))
    start = plain.get("start")
    for block in (plain.get("data"), start.get("checkpoint") if isinstance(start, dict) else None):
        if isinstance(block, dict):
            block.pop("path", None)
    return plain


def _alike(defense: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> bool:
    return len(defense) == len(wanted) and all(_says(one, other) for one, other in zip(defense, wanted))


def _says(whole: Any, wanted: Any) -> bool:
    """Whether all that is wanted stands in the whole, with the same values."""
    if isinstance(wanted, dict) and isinstance(whole, dict):
        return all(key in whole and _says(whole[key], value) for key, value in wanted.items())
    return bool(whole == wanted)


def _besides(whole: Any, wanted: Any) -> int:
    """How many values stand in the whole of which nothing is wanted."""
    if not isinstance(whole, dict):
        return 0
    named = wanted if isinstance(wanted, dict) else {}
    return sum(
        _besides(value, named[key]) if key in named else len(list(_leaves(value))) for key, value in whole.items()
    )


def _attempt(cell: Cell, part: Part) -> Attempt:
    """The one attack, told what the part's was told. What is not granted but follows is not looked at."""
    wanted = {**part.params, "name": part.attack}
    alike = [attempt for attempt in attempts(cell) if attempt.attack == wanted]
    if not alike:
        raise BadInput(f"its scenario has no attack {part.attack!r} with the entry's parameters")
    given = attacks.get(part.attack).given
    told = [attempt for attempt in alike if _says(dict(part.threat_model), {**attempt.grants, **given})]
    if not told:
        raise BadInput(f"its scenario does not tell {part.attack!r} what the entry says it was told")
    return told[0]

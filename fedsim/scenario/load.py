"""The only place that reads scenario files: from a path, a bundled name or a mapping to a valid `Scenario`."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.paths import look_beside
from fedsim.scenario.bundled import find
from fedsim.scenario.checks import check_machine
from fedsim.scenario.document import Document, KeyPath, Problem, assign, format_path, from_mapping, parse_path, read
from fedsim.scenario.normalise import decoding, following, write_out
from fedsim.scenario.rehearsal import rehearse
from fedsim.scenario.schema import FIXED, Scenario
from fedsim.scenario.strengths import written
from fedsim.scenario.validate import validate

_MOST_VARIANTS = 1_000

Trial = Callable[[Scenario], None]
"""What a valid scenario without a sweep must pass besides; raises `Problem`."""


def load(
    path_or_name: str | Path, overrides: Sequence[str] = (), *, rehearsed: bool = True, here: bool = True
) -> Scenario:
    """Read and validate a scenario.

    Args:
        path_or_name: a YAML file, or the name of a bundled scenario.
        overrides: `a.b=value` options, values in YAML, list indices allowed; applied in order.
        rehearsed: load the data, build the models and try the defenses on them as well; see `rehearsal`.
        here: it is to be run on this machine, which must have what the scenario asks for.

    Raises:
        BadInput: one line with file, line, column and key (or the option), and what would be accepted.
    """
    path = find(path_or_name)
    return _finish(read(path), overrides, path.parent.absolute(), _trial(rehearsed, here))


def parse(
    data: Mapping[str, Any], overrides: Sequence[str] = (), *, rehearsed: bool = True, folder: str | None = None
) -> Scenario:
    """Validate a scenario given as nested dictionaries, of the form that the YAML file has. Raises BadInput.

    Args:
        folder: where its file would lie: what relative paths start from, and where a factory is looked for; None is the
            working directory.
    """
    return _finish(from_mapping(data), overrides, Path(folder or "").absolute(), _trial(rehearsed, here=True))


def _finish(document: Document, overrides: Sequence[str], home: Path, trial: Trial) -> Scenario:
    write_out(document.data)
    look_beside(home)
    _resolve_paths(document.data, home)
    for option in overrides:
        document.override(option)
        write_out(document.data)
    _resolve_paths(document.data, Path())
    try:
        scenario = validate(document.data)
        variants = _variants(document, scenario, trial)
        if not variants:
            trial(scenario)
    except Problem as problem:
        raise document.explain(written(problem, document.data.get("defenses"))) from None
    scenario._variants = variants
    if variants:
        scenario._following = following(document.data)
    for one in (scenario, *(variant for _, variant in variants)):
        one._folder = str(home)
    return scenario


def _trial(rehearsed: bool, here: bool) -> Trial:
    def trial(scenario: Scenario) -> None:
        if rehearsed and here:
            check_machine(scenario)
        if rehearsed:
            rehearse(scenario)

    return trial


def _resolve_paths(data: dict[str, Any], home: Path) -> None:
    """The user's files lie relative to the scenario file, or to the working directory where an option names them."""
    source, model = data.get("data"), data.get("model")
    if isinstance(source, dict) and source.get("name") in ("npz", "folder"):
        _resolve(source, "path", home)
    for block in (model, *(attack["decoder"] for attack in decoding(data))):
        if isinstance(block, dict):
            _resolve(block, "checkpoint", home)


def _resolve(block: dict[str, Any], key: str, home: Path) -> None:
    if isinstance(block.get(key), str):
        # os.path takes what pathlib raises for, and the checks refuse: a loop of links, an unknown user, a NUL
        given = os.path.join(home, os.path.expanduser(block[key]))
        block[key] = given if "\0" in given else os.path.realpath(given)


def _variants(document: Document, scenario: Scenario, trial: Trial) -> tuple[tuple[dict[str, Any], Scenario], ...]:
    """For each setting and combination of the sweep's values, the scenario that it makes, validated like any other."""
    if not scenario.sweep and not scenario.settings:
        return ()
    swept: dict[str, KeyPath] = {key: ("sweep", key) for key in scenario.sweep}
    settings: list[dict[str, KeyPath]] = [
        {key: ("settings", at, key) for key in own} for at, own in enumerate(scenario.settings)
    ] or [{}]
    for places in (swept, *settings):
        for key, place in places.items():
            _axis(key, place)
            if place[0] == "settings" and (other := next((one for one in swept if _overlap(one, key)), None)):
                raise Problem(place, f"sweep.{other} varies it too", about="key")
    combinations = math.prod(len(values) for values in scenario.sweep.values())
    count = len(settings) * combinations
    if count > _MOST_VARIANTS:
        raise Problem(("sweep",), f"{count} combinations; at most {_MOST_VARIANTS} are accepted")
    found = []
    for at, values in enumerate(scenario.axes()):
        places = {**settings[at // combinations], **swept}
        found.append((values, _variant(document, values, places, trial)))
    return tuple(found)


def _axis(key: str, place: KeyPath) -> None:
    try:
        path = parse_path(key)
    except Problem as problem:
        raise Problem(place, problem.message, about="key") from None
    if path[0] in FIXED[str(place[0])]:
        fixed = f"{path[0]} cannot be swept (seeds and defenses are axes already)"
        if place[0] == "settings":
            fixed = f"{path[0]} is of the whole scenario"
        raise Problem(place, fixed, about="key")


def _overlap(one: str, other: str) -> bool:
    """Whether one key is the other, or lies in its block."""
    shorter, longer = sorted((parse_path(one), parse_path(other)), key=len)
    return longer[: len(shorter)] == shorter


def _variant(document: Document, values: Mapping[str, Any], places: Mapping[str, KeyPath], trial: Trial) -> Scenario:
    data = copy.deepcopy(document.data)
    data.pop("sweep", None)
    data.pop("settings", None)
    for key, value in values.items():
        try:
            assign(data, parse_path(key), copy.deepcopy(value))
        except Problem as problem:
            raise Problem(places[key], problem.message, about="key") from None
        write_out(data)
    _resolve_paths(data, Path(document.source).parent if document.source else Path())
    try:
        scenario = validate(data)
        trial(scenario)
        return scenario
    except Problem as problem:
        raise _blamed(document, values, places, written(problem, data.get("defenses"))) from None


def _blamed(document: Document, values: Mapping[str, Any], places: Mapping[str, KeyPath], problem: Problem) -> Problem:
    """Point at the value that a problem comes from: the key nearest to the place of the problem."""

    def shared(key: str) -> int:
        return sum(1 for ours, theirs in zip(parse_path(key), problem.path) if ours == theirs)

    key = max(values, key=shared)
    place, blamed = places[key], values[key]
    if place[0] == "sweep":
        swept = document.data["sweep"][key]
        # NaN is unequal to itself
        index = next(i for i, value in enumerate(swept) if value == blamed or value != value)
        place = (*place, index)
    elif len(problem.path) > (length := len(parse_path(key))) == shared(key):  # within what the setting says
        return Problem((*place, *problem.path[length:]), problem.message, about=problem.about)
    combination = ", ".join(f"{name}={value}" for name, value in values.items() if name == key or place[0] == "sweep")
    return Problem(place, f"with {combination}: {format_path(problem.path)}: {problem.message}")

"""A defense at several strengths in one entry: `{name: gaussian_noise, std: [0.001, 0.01]}` stands for two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

import defenses
from fedsim.scenario.document import KeyPath, Problem

MOST = 1_000
"""Defenses that entries may stand for."""


def expanded(entries: Sequence[Any]) -> list[Any]:
    """The entries of `defenses`, each at each of its strengths; in a composition every combination of them.

    Raises:
        Problem: they would be more than `MOST`.
    """
    count = sum(map(_count, entries))
    if count > MOST:
        raise Problem(("defenses",), f"{count} defenses with all their strengths; at most {MOST} are accepted")
    return [strength for entry in entries for strength in _strengths(entry)]


def written(problem: Problem, entries: Any) -> Problem:
    """The same problem, placed where the scenario says it: paths count the entries as they are expanded."""
    if problem.path[:1] != ("defenses",) or len(problem.path) < 2 or not isinstance(entries, list):
        return problem
    places = [at for at, entry in enumerate(entries) for _ in range(_count(entry))]
    index = problem.path[1]
    if not isinstance(index, int) or index >= len(places):
        return problem
    path: KeyPath = ("defenses", places[index], *problem.path[2:])
    return Problem(path, problem.message, about=problem.about)


def _strengths(entry: Any) -> list[Any]:
    if isinstance(entry, list):
        return [list(parts) for parts in itertools.product(*map(_strengths, entry))]
    listed = _listed(entry)
    if not listed:
        return [entry]
    return [{**entry, **dict(zip(listed, values))} for values in itertools.product(*listed.values())]


def _count(entry: Any) -> int:
    """How many an entry stands for, without writing them out."""
    return math.prod(map(_count, entry) if isinstance(entry, list) else map(len, _listed(entry).values()))


def _listed(entry: Any) -> dict[str, list[Any]]:
    """The values of a part that are lists where it takes one."""
    if not isinstance(entry, dict):
        return {}
    return {key: value for key, value in entry.items() if isinstance(value, list) and value and _single(entry, key)}


def _single(entry: dict[str, Any], key: str) -> bool:
    """Whether a defense takes one value there, so that a list is of several defenses."""
    name = entry.get("name")
    if not isinstance(name, str) or name not in defenses.names():
        return False
    hint = get_type_hints(defenses.get(name).__init__).get(key)
    return hint is not None and not any(get_origin(one) in (tuple, list) for one in (hint, *get_args(hint)))

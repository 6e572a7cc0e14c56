"""The pages of a site: an index, and one for each scenario, each attack and each defense."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup

import attacks
import defenses
from defenses.registry import UnknownName
from fedsim.reporting import prose
from fedsim.reporting.entries.entry import Entry
from fedsim.reporting.leaderboard import THREAT
from fedsim.reporting.pages import environment
from fedsim.reporting.site.addresses import Addresses
from fedsim.reporting.site.attack_row import AttackRow
from fedsim.reporting.site.board import board_of
from fedsim.reporting.site.defense_row import DefenseRow
from fedsim.reporting.site.rows import Rows, filters
from fedsim.version import __version__

_AT_FIRST = 50
"""Rows of a table until all are asked for, as in site.js."""


def pages(entries: dict[str, Entry]) -> Iterator[tuple[str, str]]:
    """The site's pages by file name."""
    board = board_of(entries)
    addresses = Addresses(board)
    rows = Rows(board, addresses)
    links = {
        "scenarios": list({row.scenario_label: addresses.scenario(row.entry) for row in board.attacks}.items()),
        "attacks": sorted({row.entry.attack.name: addresses.attack(row.entry) for row in board.attacks}.items()),
        "defenses": sorted({row.entry.defense.name: addresses.defense(row.entry) for row in board.attacks}.items()),
    }

    def page(kind: str, title: str, chosen: list[AttackRow], worst: list[DefenseRow], **more: Any) -> str:
        general, exceptions = prose.threat_model(_threats(chosen)) if chosen else ([], [])
        return environment().get_template("site/page.html.j2").render(
            kind=kind,
            title=title,
            version=__version__,
            attacks=_sections(chosen),
            defenses=_sections(worst),
            rows=rows,
            filters=filters(chosen, worst),
            threats=general,
            exceptions=exceptions,
            links=links,
            data=_json(rows.data(chosen, worst)),
            only_oracles=bool(chosen) and all(row.entry.attack.role == "oracle" for row in chosen),
            only_floors=bool(chosen) and all(row.entry.attack.role == "floor" for row in chosen),
            **{"about": "", "sources": [], "settings": [], "parameters": []} | more,
        )  # fmt: skip

    yield "index.html", page("index", "Privacy leaderboard for federated learning", board.attacks, board.defenses)
    for address, chosen in _by(board.attacks, addresses.scenario):
        names = {(row.setting_key, row.defense_key) for row in chosen}
        worst = [row for row in board.defenses if (row.strongest.setting_key, row.strongest.defense_key) in names]
        yield (
            address,
            page(
                "scenario",
                chosen[0].scenario_label,
                chosen,
                worst,
                sources=_unique([row.entry.source for row in chosen]),
                settings=_unique([(row.setting_label, row.entry.setting.params) for row in chosen]),
                parameters=_unique([(row.attack_label, row.entry.attack.params) for row in chosen]),
            ),
        )
    for address, chosen in _by(board.attacks, addresses.attack):
        name = chosen[0].entry.attack.name
        parameters = _unique([(row.attack_label, row.entry.attack.params) for row in chosen])
        yield address, page("attack", name, chosen, [], about=_about(attacks.get, name), parameters=parameters)
    for address, chosen in _by(board.attacks, addresses.defense):
        name = chosen[0].entry.defense.name
        parts = [part["name"] for part in chosen[0].entry.defense.parts]
        about = " ".join(filter(None, (_about(defenses.get, str(part)) for part in parts)))
        worst = [row for row in board.defenses if row.strongest.entry.defense.name == name]
        yield address, page("defense", name, chosen, worst, about=about)


@dataclass(frozen=True)
class _Section:
    """Rows under one heading; `late` where it begins below the rows that a table first shows."""

    label: str
    note: str
    rows: list[Any]
    late: bool


def _sections(rows: Sequence[AttackRow | DefenseRow]) -> list[_Section]:
    """The rows by what they are ranked among, in their order."""
    found: dict[str, _Section] = {}
    for at, row in enumerate(rows):
        found.setdefault(row.group, _Section(row.heading, row.note, [], at >= _AT_FIRST)).rows.append(row)
    return list(found.values())


def _threats(rows: list[AttackRow]) -> pl.DataFrame:
    """The threat models of rows, as `fedsim.reporting.prose` reads them off a leaderboard."""
    return pl.DataFrame(
        {"attack_label": row.attack_label, "defense_label": row.entry.defense.label, "role": row.entry.attack.role}
        | {name: row.entry.threat_model[name.removeprefix("threat_")] for name in THREAT}
        for row in rows
    )


def _by(rows: list[AttackRow], address: Callable[[Entry], str]) -> Iterator[tuple[str, list[AttackRow]]]:
    found: dict[str, list[AttackRow]] = {}
    for row in rows:
        found.setdefault(address(row.entry), []).append(row)
    yield from found.items()


def _unique(values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _about(get: Callable[[str], type], name: str) -> str:
    """The first sentence of what the registry says of it; nothing for a name that this installation does not know."""
    try:
        summary = (inspect.getdoc(get(name)) or "").split("\n\n")[0]
    except UnknownName:
        return ""
    return " ".join(summary.replace("`", "").split()).rstrip(".:") + "." if summary else ""


def _json(data: dict[str, Any]) -> Markup:
    """JSON that may stand inside a script element: nothing in it can end the element early."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))

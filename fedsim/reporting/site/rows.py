"""The rows of a site's tables as HTML, what its script filters and sorts them by, and what it shows of an entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from fedsim.reporting.entries.entry import Entry
from fedsim.reporting.entries.parts import Verification
from fedsim.reporting.pages import environment
from fedsim.reporting.site.addresses import Addresses
from fedsim.reporting.site.attack_row import AttackRow
from fedsim.reporting.site.board import Board
from fedsim.reporting.site.defense_row import DefenseRow
from fedsim.reporting.verdicts import IN_WORDS


class Rows:
    """The rows of the tables as HTML, each rendered once for all the pages that show it; and their data for sorting."""

    def __init__(self, board: Board, addresses: Addresses) -> None:
        module = environment().get_template("site/rows.html.j2").make_module({"words": IN_WORDS})
        self._html: dict[str, Markup] = {}
        for row in board.attacks:
            self._html[row.stem] = module.attack_row(row, addresses)  # type: ignore[attr-defined]
        for one in board.defenses:
            self._html[one.key] = module.defense_row(one, addresses)  # type: ignore[attr-defined]

    def __getitem__(self, key: str) -> Markup:
        return self._html[key]

    def data(self, chosen: list[AttackRow], worst: list[DefenseRow]) -> dict[str, Any]:
        """What the page's script filters and sorts by, and what it shows of an entry."""
        details = {row.stem: _details(row) for row in [*chosen, *(row.strongest for row in worst)]}
        return {
            "attacks": [
                {"facets": _facets(row), "role": row.entry.attack.role, "values": row.values} for row in chosen
            ],
            "defenses": [
                {"facets": _facets(row.strongest), "role": "attack", "values": row.values} for row in worst
            ],
            "entries": details,
        }


_FACETS: dict[str, tuple[str, Callable[[AttackRow], str]]] = {
    "dataset": ("data set", lambda row: row.entry.setting.dataset),
    "model": ("architecture", lambda row: row.entry.setting.model),
    "dropout": ("dropout rate", lambda row: f"{row.entry.defense.dropout or 0:g}"),
    "batch": ("batch size", lambda row: str(row.entry.setting.batch_size)),
    "update": ("update", lambda row: row.update_label),
    "threat": ("threat model", lambda row: row.threat_label or "as described above"),
}


def _facets(row: AttackRow) -> list[str]:
    return [value(row) for _, value in _FACETS.values()]


def filters(chosen: list[AttackRow], worst: list[DefenseRow]) -> list[tuple[str, str, list[str]]]:
    """Name, label and choices of each filter."""
    rows = [*chosen, *(row.strongest for row in worst)]
    return [
        (name, label, sorted({of(row) for row in rows}, key=_numbers_first)) for name, (label, of) in _FACETS.items()
    ]


def _numbers_first(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), ""
    except ValueError:
        return True, 0.0, text


def _details(row: AttackRow) -> dict[str, Any]:
    """What the dialog of an entry shows."""
    entry = row.entry
    picture = entry.picture
    return {
        "title": f"{row.attack_label} against {entry.defense.label}",
        "setting": " · ".join(filter(None, (row.setting_label, row.note))),
        "scenario": row.scenario_label,
        "command": entry.source.command,
        "victims": _victims(entry),
        "verified": "; ".join(map(_verification, entry.verified)) or "not yet",
        "parameters": ", ".join(f"{key} = {_plain(value)}" for key, value in entry.attack.params.items()) or "none",
        "origin": f"fedsim {entry.source.fedsim_version} on {', '.join(entry.source.hardware) or 'unknown hardware'}, "
        f"seeds {', '.join(map(str, entry.source.seeds))}",
        "picture": None if picture is None else {"file": picture.file, "tile": picture.tile, "psnr": picture.psnr},
    }  # fmt: skip


def _victims(entry: Entry) -> str:
    victims = entry.victims
    counts = {"failed": victims.failed, "not applicable": victims.not_applicable}
    why = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    reason = f" ({why}: {victims.reason})" if why and victims.reason else ""
    return f"{victims.attacked} images of {victims.clients} clients, {victims.answered} answered{reason}"


def _verification(one: Verification) -> str:
    return f"{one.outcome} on {one.date}, {one.victims} victims, fedsim {one.fedsim_version}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)

"""The public leaderboard as a static site: an index, and a page for each scenario, each attack and each defense.

    index.html, scenario-<name>-<hash>.html, attack-<name>.html, defense-<name>.html
    pictures/<entry>.png, entries/<entry>.json     what the pages show, as it was submitted
    site.css, site.js
    fedsim-site.json                               our marker: which files are ours

Every page is complete without JavaScript, which adds sorting, filtering and the pictures side by side. Links are
relative, and nothing comes from the network, so the site works from a disk.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

import attacks
import defenses
from defenses.registry import UnknownName
from fedsim.errors import BadInput
from fedsim.files import read_json, write_bytes, write_json, write_text
from fedsim.reporting import prose
from fedsim.reporting.entry import Entry, Verification, slug
from fedsim.reporting.leaderboard import THREAT
from fedsim.reporting.pages import environment
from fedsim.reporting.standings import AttackRow, Board, DefenseRow, board_of
from fedsim.reporting.verdicts import IN_WORDS
from fedsim.version import __version__

MARKER = "fedsim-site.json"
_OURS = re.compile(r"((pictures|entries)/)?[a-z0-9][a-z0-9._-]*")
"""Names of the files that a site has; a marker that names others is not believed."""
_AT_FIRST = 50
"""Rows of a table until all are asked for, as in site.js."""


def write(target: Path, entries: dict[str, Entry], source: Path) -> Path:
    """Build the site in a directory; files of an earlier site that are no longer part of it are removed.

    Args:
        target: a new directory, an empty one, or an earlier site of ours.
        entries: by the stem of their files, as `fedsim.reporting.entries.read` gives them.
        source: the directory where they and their pictures lie.

    Returns:
        The index page.

    Raises:
        BadInput: the directory holds something else; nothing was written.
    """
    former = _former(target)
    templates = environment()
    files = dict(pages(entries))
    files |= {name: templates.get_template(f"site/{name}").render() for name in ("site.css", "site.js")}
    copied = {f"entries/{stem}.json" for stem in entries}
    copied |= {f"pictures/{stem}.png" for stem, entry in entries.items() if entry.picture is not None}
    present = files.keys() | copied
    _mark(target, former | present)  # first, so that a site that was left half built can be built again
    for name, content in files.items():
        write_text(target / name, content)
    for name in copied:
        write_bytes(target / name, (source / Path(name).name).read_bytes())
    for name in former - present:
        (target / name).unlink(missing_ok=True)
    _mark(target, present)
    return target / "index.html"


def _mark(target: Path, files: set[str]) -> None:
    write_json(target / MARKER, {"fedsim_version": __version__, "files": sorted(files)})


def _former(target: Path) -> set[str]:
    """The files of the site that is there already; raises BadInput if something else is."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return set()
    refused = BadInput(f"{target}: not a site of fedsim's; --site takes a new or empty directory, or an earlier site")
    try:
        files = read_json(target / MARKER)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise refused from None
    if not isinstance(files, list):
        raise refused
    return {name for name in files if isinstance(name, str) and _OURS.fullmatch(name)}


def pages(entries: dict[str, Entry]) -> Iterator[tuple[str, str]]:
    """The site's pages by file name."""
    board = board_of(entries)
    addresses = _Addresses(board)
    rows = _Rows(board, addresses)
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
            attacks=_groups(chosen),
            defenses=_groups(worst),
            rows=rows,
            filters=_filters(chosen, worst),
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
class _Group:
    """Rows under one heading; `late` where it begins below the rows that a table first shows."""

    label: str
    note: str
    rows: list[Any]
    late: bool


def _groups(rows: Sequence[AttackRow | DefenseRow]) -> list[_Group]:
    """The rows by what they are ranked among, in their order."""
    found: dict[str, _Group] = {}
    for at, row in enumerate(rows):
        found.setdefault(row.group, _Group(row.heading, row.note, [], at >= _AT_FIRST)).rows.append(row)
    return list(found.values())


class _Addresses:
    """The file names of pages: readable, and made unique by a number where two names would read alike."""

    def __init__(self, board: Board) -> None:
        self._taken: dict[str, tuple[str, ...]] = {}
        for row in sorted(board.attacks, key=lambda row: (row.entry.attack.name, row.entry.defense.name)):
            self.attack(row.entry)
            self.defense(row.entry)
            self.scenario(row.entry)

    def scenario(self, entry: Entry) -> str:
        source = entry.source
        return self._address(
            "scenario", f"{slug(source.scenario)[:80]}-{source.scenario_hash[:8]}", source.scenario_hash
        )

    def attack(self, entry: Entry) -> str:
        return self._address("attack", slug(entry.attack.name)[:80], entry.attack.name)

    def defense(self, entry: Entry) -> str:
        return self._address("defense", slug(entry.defense.name)[:80], entry.defense.name)

    def _address(self, kind: str, readable: str, name: str) -> str:
        address, number = f"{kind}-{readable}.html", 1
        while self._taken.setdefault(address, (kind, name)) != (kind, name):
            number += 1
            address = f"{kind}-{readable}-{number}.html"
        return address


class _Rows:
    """The rows of the tables as HTML, each rendered once for all the pages that show it; and their data for sorting."""

    def __init__(self, board: Board, addresses: _Addresses) -> None:
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


def _filters(chosen: list[AttackRow], worst: list[DefenseRow]) -> list[tuple[str, str, list[str]]]:
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

"""The file names of a site's pages."""

from __future__ import annotations

from fedsim.reporting.entries.entry import Entry, slug
from fedsim.reporting.site.board import Board


class Addresses:
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

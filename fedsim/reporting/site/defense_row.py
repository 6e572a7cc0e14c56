"""A row of the table of defenses: a defense by its worst case, and how it stands against no defense and others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fedsim.reporting.leaderboard import Span, ranks
from fedsim.reporting.site.attack_row import AttackRow, value_of
from fedsim.reporting.verdicts import Verdict


@dataclass(frozen=True)
class DefenseRow:
    """A defense in one setting under one threat model, by the strongest attack on it."""

    strongest: AttackRow
    verdict: Verdict
    utility: dict[str, float | None]  # value, low and high
    epsilon: float | str | None
    bytes_relative: float | None  # over an undefended client's
    tried: int  # attacks
    rank: int | None = None
    tied: bool = False
    by_range: bool = False
    against_none: str = ""  # how it stands against no defense, where it has no rank

    @property
    def key(self) -> str:
        return f"defense {self.group} {self.strongest.stem}"

    @property
    def group(self) -> str:
        return self.strongest.defense_group

    @property
    def heading(self) -> str:
        return self.strongest.setting_label

    @property
    def note(self) -> str:
        return " · ".join(filter(None, (self.strongest.setting_note, self.strongest.defense_threat_label)))

    @property
    def values(self) -> list[Any]:
        """What the columns of the table are sorted by, from left to right."""
        row, scores = self.strongest, self.strongest.entry.scores
        return [
            self.rank,
            row.entry.defense.label,
            self.verdict.in_words,
            value_of(scores.psnr),
            scores.coverage,
            value_of(scores.leaked_psnr),
            row.attack_label,
            self.utility["value"],
            1e300 if self.epsilon == "infinite" else self.epsilon,
            self.bytes_relative,
            self.tried,
        ]


def ranked(members: list[DefenseRow]) -> list[DefenseRow]:
    """A group of defenses: those better than no defense are ranked, of the others it is said how they stand."""
    plain = next((one for one in members if one.verdict.baseline), None)
    few = any(one.strongest.range_level for one in members)
    stood = [replace(one, against_none=_against_none(one, plain)) for one in members]
    stood = [replace(one, by_range=few and one.against_none == _LOWER) for one in stood]
    rivals = [
        one for one in stood if one.verdict.kind != "leaks" and (plain is None or one.against_none == _LOWER)
    ]
    found = {one.key: place for one, place in zip(rivals, ranks([_mirrored(one.strongest) for one in rivals]))}
    return [_placed(one, *found.get(one.key, (None, False)), few=few) for one in stood]


def _placed(one: DefenseRow, rank: int | None, tied: bool, *, few: bool) -> DefenseRow:
    return one if rank is None else replace(one, rank=rank, tied=tied, by_range=few, against_none="")


_LOWER = "lower than none"


def _against_none(one: DefenseRow, plain: DefenseRow | None) -> str:
    """How a defense stands against no defense, by intervals or ranges; empty where there is nothing to compare with."""
    if one.verdict.baseline:
        return "undefended"
    if plain is None:
        return ""
    if plain.verdict.held:  # nothing was rebuilt that a defense could have stopped
        return "nothing to tell"
    if _below(one.strongest, plain.strongest):
        return _LOWER
    return "higher than none" if _below(plain.strongest, one.strongest) else "tied with none"


def _below(low: AttackRow, high: AttackRow) -> bool:
    top, bottom = low.span[1], high.span[0]
    return top is not None and bottom is not None and top < bottom


def _mirrored(row: AttackRow) -> Span:
    low, high = row.span
    return None if high is None else -high, None if low is None else -low

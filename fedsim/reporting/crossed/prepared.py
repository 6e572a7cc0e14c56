"""What the tables of attacks against defenses show, whatever they are written in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from fedsim.reporting import formats as f
from fedsim.reporting.leaderboard import THREAT, Row, rows_of
from fedsim.scoring import intervals

_ORDER = {"oracle": 0, "attack": 1, "floor": 2}


@dataclass(frozen=True)
class Score:
    """An attack under a defense.

    Args:
        median: PSNR in dB, or what is said in its place: `failed`, `declines`; empty where it was not tried.
        interval: `44.5–46.3`, or empty.
        best: no attack of the same threat model is clearly better here, and there is one that it could be better than.
        at_budget: at least half of its answers stopped at their budget of iterations.
        beside: `4 of 6`, where there is not an answer to every image.
    """

    median: str = ""
    interval: str = ""
    best: bool = False
    at_budget: bool = False
    beside: str = ""


@dataclass(frozen=True)
class Line:
    attack: str
    scores: list[Score]


@dataclass(frozen=True)
class Part:
    """Attacks that were told the same: only these may be compared.

    Args:
        role: oracle, attack or floor.
        knows: the letter of the threat model, with a star where it is an upper bound.
        beyond: what it was told that no real server has.
        told: what tells its threat model from others of the table, in words; empty where all are alike.
    """

    role: str
    knows: str
    beyond: str
    told: str
    lines: list[Line]

    @property
    def heading(self) -> str:
        if self.role == "floor":
            return "floor: never looks at the update"
        told = f"threat model {self.knows.rstrip('*')}"
        told += f", {self.told}" if self.told else ""
        if self.role == "oracle":
            return f"oracle, {told}: was told {self.beyond or 'what the client drew'}"
        return f"{told}: an upper bound, was told {self.beyond}" if self.beyond else told


@dataclass(frozen=True)
class Section:
    """The table of one setting.

    Args:
        images: of how many images each score is.
        level: of the intervals; None where there are none.
    """

    setting: str
    defenses: list[str]
    parts: list[Part]
    images: int
    clients: int
    level: float | None

    @property
    def note(self) -> str:
        """What the numbers are, for a caption."""
        said = [
            f"{f.images(self.images)} of {self.clients} client{'' if self.clients == 1 else 's'} a defense",
            "median PSNR in dB over every image that was attacked, those without an answer at the floor's score",
        ]
        if self.level is not None and self.level >= intervals.LEVEL:
            said.append(f"with its {f.level_text(self.level)} interval")
        elif self.level is not None:
            said.append(f"with the range of the clients, which covers the median with {f.level_text(self.level)}")
        text = "; ".join(said) + "."
        return text[0].upper() + text[1:]

    @property
    def remarks(self) -> list[str]:
        """What marks in the table mean, those that occur."""
        scores = [score for part in self.parts for line in part.lines for score in line.scores]
        said = []
        if any(score.best for score in scores):
            said.append("Bold: no attack of the same threat model is clearly better, by non-overlapping intervals.")
        if any(score.at_budget for score in scores):
            said.append("†: at least half of its answers stopped at their budget of iterations; more may come out.")
        return said


def sections(board: pl.DataFrame) -> Iterator[Section]:
    """One table for each setting of a board of `fedsim.reporting.leaderboard.build`.

    Oracles come first and floors last. In between stand the attacks, one part for each threat model; in a part the
    strongest under the first defense come first.
    """
    for _, part in board.group_by("setting_label", maintain_order=True):
        yield _section(part)


def _section(part: pl.DataFrame) -> Section:
    defenses = part["defense_label"].unique(maintain_order=True).to_list()
    lines: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows_of(part):
        lines.setdefault(_line(row), {})[row["defense_label"]] = row
    for key, under in lines.items():
        _fill_undefended(key, under, part)
    parts: dict[tuple[Any, ...], Part] = {}
    for (label, *_), under in lines.items():
        last = list(under.values())[-1]
        told = next((row["told"] for row in under.values() if row["told"]), "")
        beyond = max((row["beyond"] for row in under.values()), key=len)
        knows = max(row["letter"] or "" for row in under.values()) + ("*" if beyond else "")
        key = (_ORDER[last["role"]], knows, beyond, told)
        found = parts.setdefault(key, Part(last["role"], knows, beyond, told, []))
        found.lines.append(Line(label, [_score(under.get(defense)) for defense in defenses]))
    levels = part["level"].drop_nulls()
    return Section(
        setting=part["setting_label"][0],
        defenses=defenses,
        parts=[parts[key] for key in sorted(parts)],
        images=int(part["n"].max() or 0),  # type: ignore[arg-type]
        clients=int(part["clients"].max() or 0),  # type: ignore[arg-type]
        level=None if levels.is_empty() else float(levels.min()),  # type: ignore[arg-type]
    )


def _line(row: Row) -> tuple[Any, ...]:
    """What rows of one line have in common: the attack, its parameters and what it was told."""
    attack = row["attack_label"].removesuffix(f" [{row['told']}]") if row["told"] else row["attack_label"]
    return attack, row["role"], row["attack_params"], row["told"]


def _fill_undefended(key: tuple[Any, ...], under: dict[str, Row], part: pl.DataFrame) -> None:
    """Where there is no defense there is none to know: an attack that was told of it has one result there."""
    if any(row["baseline"] for row in under.values()):
        return
    threat = [name for name in THREAT if name != "threat_defense"]
    other = next(iter(under.values()))
    told: Mapping[str, object] = other
    same = part.filter("baseline", pl.col("attack") == other["attack"], pl.col("attack_params") == key[2])
    for row in rows_of(same):
        own: Mapping[str, object] = row
        if all(own[name] == told[name] for name in threat):
            under[row["defense_label"]] = row


def _score(row: Row | None) -> Score:
    if row is None:
        return Score()
    if not row["answered"]:
        return Score("failed" if row["failed"] else "declines")
    return Score(
        median=f.decibel(row["psnr"]),
        interval=f.interval(row["psnr_low"], row["psnr_high"], 1),
        best=row["rank"] == 1,
        at_budget=(row["at_budget"] or 0.0) >= 0.5,
        beside="" if row["answered"] == row["n"] else f"{row['answered']} of {row['n']}",
    )

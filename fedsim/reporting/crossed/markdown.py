"""Attacks against defenses as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from fedsim.reporting.crossed.prepared import Score, Section, sections

_ROLES = {"attack": "", "oracle": " (oracle)", "floor": " (floor)"}


def markdown(board: pl.DataFrame, *, noted: str = "") -> str:
    """The median PSNR in dB of each attack under each defense, with its interval, one table for each setting.

    Args:
        board: of `fedsim.reporting.leaderboard.build`.
        noted: tags and notes of the runs.
    """
    head = [f"*{_escaped(noted)}*"] if noted else []
    return "\n\n".join([*head, *("\n".join(_section(section)) for section in sections(board))]) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f"### {_escaped(section.setting)}"
    yield ""
    yield section.note
    yield ""
    yield f"| attack | knows | {' | '.join(map(_escaped, section.defenses))} |"
    yield "|---" * (len(section.defenses) + 2) + "|"
    for part in section.parts:
        told = f", {part.told}" if part.told else ""
        for line in part.lines:
            scores = " | ".join(map(_score, line.scores))
            yield f"| {_escaped(line.attack)}{_ROLES[part.role]} | {_escaped(part.knows + told)} | {scores} |"
    if section.remarks:
        yield ""
        yield " ".join(section.remarks)


def _score(score: Score) -> str:
    """`**45.8** (44.5–46.3) †, 4 of 6`."""
    said = f"**{score.median}**" if score.best else score.median
    said += f" ({score.interval})" if score.interval else ""
    said += " †" if score.at_budget else ""
    return f"{said}, {score.beside}" if score.beside else said


def _escaped(text: str) -> str:
    """Names are a user's: in a cell they are text, whatever they hold."""
    text = " ".join(text.split())
    for letter in "\\*|<>`[]":
        text = text.replace(letter, f"\\{letter}")
    return text

"""Attacks against defenses: for each setting one table, an attack a row, a defense a column, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from fedsim.reporting import formats as f

_ROLES = {"attack": "", "oracle": " (oracle)", "floor": " (floor)"}


def markdown(board: pl.DataFrame) -> str:
    """The median PSNR in dB of each attack under each defense, with its interval; the strongest undefended come first.

    Args:
        board: of `fedsim.reporting.leaderboard.build`.
    """
    settings = board["setting_label"].unique(maintain_order=True)
    return "\n\n".join("\n".join(_section(board.filter(setting_label=setting))) for setting in settings) + "\n"


def _section(part: pl.DataFrame) -> Iterator[str]:
    defenses = part["defense_label"].unique(maintain_order=True).to_list()
    cells: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in part.to_dicts():
        name = row["attack_label"].partition(" (")[0] + _ROLES[row["role"]]
        knows = row["letter"] + ("*" if row["beyond"] else "")
        cells.setdefault((name, knows, row["attack_params"]), {})[row["defense_label"]] = row
    yield f"### {part['setting_label'][0]}"
    yield ""
    yield f"{f.images(part['n'].max())} a defense.".capitalize()  # type: ignore[arg-type]
    yield ""
    yield f"| attack | knows | {' | '.join(defenses)} |"
    yield "|---" * (len(defenses) + 2) + "|"
    for (name, knows, _), under in cells.items():
        scores = [_score(under.get(defense)) for defense in defenses]
        yield f"| {name} | {knows} | {' | '.join(scores)} |".replace("*", "\\*")


def _score(row: dict[str, Any] | None) -> str:
    """`45.8 (44.5–46.3)`, and of how many images where not of all; nothing where an attack was not tried."""
    if row is None:
        return ""
    if not row["answered"]:
        return "failed" if row["failed"] else "declines"
    said = f.decibel(row["psnr"])
    if ends := f.interval(row["psnr_low"], row["psnr_high"], 1):
        said += f" ({ends})"
    if (row["at_budget"] or 0.0) >= 0.5:
        said += " †"
    return said if row["answered"] == row["n"] else f"{said}, {row['answered']} of {row['n']}"

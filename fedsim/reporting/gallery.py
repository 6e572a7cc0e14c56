"""Which pictures a report shows, and where they stand: panels of originals above what each attack rebuilt.

The victims of a panel are ranked by the PSNR that its strongest attack reached on them (no oracle, no floor): the
worst, the median and the best of them are shown, and others evenly between, the same for every attack, so that a column
is one victim. The choice is for showing only: every number of a report counts every victim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import polars as pl

from fedsim.reporting.leaderboard import DEFENSE, THREAT, labelled
from fedsim.scoring.summary import counted

Pictures = Callable[[str], tuple[np.ndarray, np.ndarray]]
"""From a job's key to its originals and its matched reconstructions: two uint8 arrays (N, H, W, C).

Raises FileNotFoundError where there are none; then a picture is missing, and the rest is still shown.
"""

VICTIM = ["seed", "round", "client", "sample"]


@dataclass(frozen=True)
class Tile:
    """One place in a panel: a picture, or the reason why there is none."""

    image: np.ndarray | None
    psnr: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Row:
    """One attack on the panel's victims; `role` is attack, oracle or floor."""

    label: str
    role: str
    tiles: list[Tile]

    @property
    def absent(self) -> str:
        """Why the row has no pictures and no scores, if it is the same for all."""
        reasons = {tile.why if tile.psnr is None and tile.image is None else "" for tile in self.tiles}
        return reasons.pop() if len(reasons) == 1 else ""


@dataclass(frozen=True)
class Panel:
    """One model under one defense: the originals, and a row for each attack.

    `victims` names the columns; `total` is how many victims there are, shown or not.
    """

    setting: str
    defense: str
    victims: list[str]
    originals: list[Tile]
    rows: list[Row]
    total: int

    def blocks(self, columns: int) -> Iterator[Panel]:
        """The panel cut into panels of at most `columns` columns."""
        for start in range(0, len(self.victims), columns):
            part = slice(start, start + columns)
            rows = [replace(row, tiles=row.tiles[part]) for row in self.rows]
            yield replace(self, victims=self.victims[part], originals=self.originals[part], rows=rows)


def panels(results: pl.DataFrame, pictures: Pictures, *, victims: int | None = 8) -> Iterator[Panel]:
    """The panels, in the order of the results; at most `victims` columns each, from the least to the most rebuilt.

    `results` may be labelled already; `victims` None shows them all.
    """
    if results.is_empty():
        return
    stack = lru_cache(maxsize=16)(pictures)
    rows = results if "attack_label" in results.columns else labelled(results)
    rows = rows.filter(~pl.col("development"))
    for _, part in rows.group_by(DEFENSE, maintain_order=True):
        ranked = _ranked(part)
        shown = ranked if victims is None else [ranked[place] for place in spread(len(ranked), victims)]
        entries = [
            _Entry(
                group["attack_label"][0],
                group["role"][0],
                {tuple(row[v] for v in VICTIM): row for row in group.to_dicts()},
            )
            for _, group in part.group_by(["attack", "attack_params", *THREAT], maintain_order=True)
        ]
        attacks = [_row(entry, shown, stack) for entry in entries]
        yield Panel(
            part["setting_label"][0],
            part["defense_label"][0],
            [_victim_name(part, victim) for victim in shown],
            [_original(entries, victim, stack) for victim in shown],
            sorted(attacks, key=lambda row: ("attack", "oracle", "floor").index(row.role)),
            len(ranked),
        )


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` places in a ranking: first, middle, last, and others evenly between."""
    if count <= most:
        return list(range(count))
    middle, left = (count - 1) // 2, (most + 1) // 2
    places = [*np.linspace(0, middle, left), *np.linspace(middle, count - 1, most - left + 1)[1:]]
    return [round(place) for place in places]


def _ranked(part: pl.DataFrame) -> list[tuple[int, ...]]:
    """The victims of a panel by the PSNR of its strongest attack, lowest first; those that it has no score for last."""
    attack = ["attack", "attack_params", *THREAT]
    scored = counted(part).filter(pl.col("psnr").is_not_null())
    scored = scored.filter(pl.col("answered").any().over(attack))
    real = scored.filter(pl.col("role") == "attack")
    medians = (real if len(real) else scored).group_by(attack, maintain_order=True).agg(pl.col("psnr").median())
    strongest = medians.sort("psnr", descending=True, maintain_order=True).head(1)
    by_psnr = scored.join(strongest, on=attack, how="semi", nulls_equal=True).select(*VICTIM, "psnr")
    everyone = part.select(VICTIM).unique().join(by_psnr, on=VICTIM, how="left")
    return everyone.sort("psnr", *VICTIM, nulls_last=True).select(VICTIM).rows()


@dataclass(frozen=True)
class _Entry:
    label: str
    role: str
    by_victim: dict[tuple[int, ...], dict[str, object]]


def _row(entry: _Entry, shown: list[tuple[int, ...]], stack: Pictures) -> Row:
    return Row(entry.label, entry.role, [_tile(entry.by_victim.get(victim), stack) for victim in shown])


def _tile(row: dict[str, object] | None, stack: Pictures) -> Tile:
    if row is None:
        return Tile(None, why="not attacked")
    if row["status"] != "ok":
        return Tile(None, why=str(row["status"]).replace("_", " "))
    image = _picture(row, stack, which=1)
    return Tile(image, row["psnr"], "" if image is not None else "no picture")  # type: ignore[arg-type]


def _original(entries: list[_Entry], victim: tuple[int, ...], stack: Pictures) -> Tile:
    """The original of a victim, from any attack that has it."""
    for entry in entries:
        row = entry.by_victim.get(victim)
        image = _picture(row, stack, which=0) if row is not None and row["status"] == "ok" else None
        if image is not None:
            return Tile(image)
    return Tile(None, why="no picture")


def _picture(row: dict[str, object], stack: Pictures, *, which: int) -> np.ndarray | None:
    if row["job"] is None or row["picture"] is None:
        return None
    try:
        return stack(str(row["job"]))[which][int(row["picture"])]  # type: ignore[call-overload]
    except (FileNotFoundError, IndexError):
        return None


def _victim_name(part: pl.DataFrame, victim: tuple[int, ...]) -> str:
    """`client 3`, with the seed, round or sample where there is more than one."""
    names = dict(zip(VICTIM, victim))
    return ", ".join(f"{name} {names[name]}" for name in VICTIM if name == "client" or part[name].n_unique() > 1)

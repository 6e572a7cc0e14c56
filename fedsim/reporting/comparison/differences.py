"""The paired differences of two sides: their median with its interval, and a test.

Nothing is assumed of how differences are distributed: their median has an interval between two of them, and the test is
the one that agrees with it, the exact sign test (Conover, *Practical nonparametric statistics*, 1999, section 3.4).
Clients are the units; all is conditional on the seeds. P values of one table are corrected for their number by Holm's
method.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from scipy.stats import binomtest

from fedsim.reporting.comparison.pairing import SAME, Side, paired
from fedsim.scoring import intervals
from fedsim.scoring.summary import UNIT, units

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Difference:
    """One attack under one defense on both sides, B less A.

    Args:
        a, b: the median PSNR in dB over the clients that both sides attacked.
        median: of the clients' differences in dB; low, high: its interval, at the level `level`.
        alone: p of the exact sign test, were it the only comparison; None where no client differs.
        p: the same corrected for the number of comparisons.
        clients: pairs; `ahead` of them B is better on, `behind` worse, the others are equal.
    """

    setting: str
    defense: str
    attack: str
    a: float
    b: float
    median: float
    low: float | None
    high: float | None
    level: float | None
    alone: float | None
    p: float | None
    clients: int
    ahead: int
    behind: int

    @property
    def _leader(self) -> str:
        return "B" if self.ahead > self.behind else "A"

    @property
    def in_words(self) -> str:
        if not self.ahead and not self.behind:
            return "the same"
        if self.p is not None and self.p <= SIGNIFICANT:
            return f"{self._leader} is better"
        if self.alone is not None and self.alone <= SIGNIFICANT:
            return f"{self._leader} is ahead, were it the only comparison"
        return "too few clients" if self.clients < intervals.ENOUGH else "not told apart"


@dataclass(frozen=True)
class Comparison:
    """What two sides have in common, B less A, and what of them could not be paired.

    Args:
        differing: what the two sides do not share, as `key: A against B`.
    """

    a: str
    b: str
    differences: list[Difference]
    differing: list[str]
    remarks: list[str]


def compare(a: Side, b: Side) -> Comparison:
    """Pair the victims of two sides and take the differences of their PSNR (capped at 100 dB), B less A.

    An image without an answer has the floor's score, as everywhere. Development victims are left out. A victim is
    paired only if it is the same image on both sides, which the pictures show.

    Raises:
        fedsim.errors.BadInput: the two sides have no victim in common.
    """
    pairs = paired(a, b)
    return Comparison(a.name, b.name, _corrected(list(_differences(pairs.rows))), pairs.differing, pairs.remarks)


def _differences(pairs: pl.DataFrame) -> Iterator[Difference]:
    for _, part in pairs.group_by("setting", *SAME, "attack_side", maintain_order=True):
        clients = (
            units(part).group_by(UNIT, maintain_order=True)
            .agg(pl.col("psnr", "psnr_b").median(), (pl.col("psnr_b") - pl.col("psnr")).median().alias("difference"))
            .drop_nulls("difference")
        )
        if clients.is_empty():
            continue
        found = clients["difference"].to_numpy()
        ahead, behind = int((found > 0).sum()), int((found < 0).sum())
        low, high = intervals.of_median(found)
        attack = part["attack_label"][0]
        attack_b = part["attack_label_b"][0]
        yield Difference(
            setting=part["setting_label"][0],
            defense=part["defense_label"][0],
            attack=attack if attack == attack_b else f"{attack}, {attack_b}",
            a=float(clients["psnr"].median()),  # type: ignore[arg-type]
            b=float(clients["psnr_b"].median()),  # type: ignore[arg-type]
            median=float(np.median(found)),
            low=low,
            high=high,
            level=intervals.level(len(found)),
            alone=float(binomtest(ahead, ahead + behind).pvalue) if ahead + behind else None,
            p=None,
            clients=len(found),
            ahead=ahead,
            behind=behind,
        )


def _corrected(differences: list[Difference]) -> list[Difference]:
    """Holm's p values: a table of many comparisons is wrong about any of them with 5 % at most."""
    order = sorted((each.alone, at) for at, each in enumerate(differences) if each.alone is not None)
    corrected: dict[int, float] = {}
    least = 0.0
    for place, (p, at) in enumerate(order):
        least = max(least, min(1.0, p * (len(order) - place)))
        corrected[at] = least
    return [replace(each, p=corrected.get(at)) for at, each in enumerate(differences)]

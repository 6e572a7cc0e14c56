"""What an attack of a result was told: its letter in the literature, and what of it no real server has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import polars as pl

import attacks
from attacks import ThreatModel
from attacks.threat import beyond, letter
from defenses.registry import UnknownName

_THREAT = [f"threat_{name}" for name in ThreatModel.choices()]


def told(attack: str, threat_model: Mapping[str, str], *, images: int) -> tuple[str, str]:
    """The letter of what an attack was told and uses (`attacks.threat.LETTERS`), and the fields of it that no real
    server has, joined by ", ": empty for a feasible attack.

    Args:
        attack: its name; of one that is not known here all that it was told counts as used.
        threat_model: the fields of `attacks.ThreatModel`.
        images: of all clients whose updates are attacked as one.
    """
    threat = ThreatModel(**threat_model)  # type: ignore[arg-type]
    uses = _uses(attack)
    return letter(threat, uses), ", ".join(beyond(threat, uses, images=images))


@cache
def _uses(attack: str) -> frozenset[str]:
    try:
        return attacks.get(attack).uses()
    except UnknownName:
        return frozenset(ThreatModel.choices())


def with_knowledge(rows: pl.DataFrame) -> pl.DataFrame:
    """Result rows of one cell with the columns `oracle`, `letter` and `beyond` filled in."""
    together = [*_THREAT, "attack", "attack_params", "round"]
    alone = pl.col("threat_aggregation").fill_null("individual") == "individual"
    unit = pl.when(alone).then("client")
    rows = rows.with_columns(images=pl.len().over([*together, unit]))
    found = [
        told(attack, dict(zip(ThreatModel.choices(), threat)), images=images)
        for attack, images, *threat in rows.select("attack", "images", *_THREAT).iter_rows()
    ]
    oracles = [name for name in attacks.names() if attacks.get(name).oracle]
    rows = rows.with_columns(
        letter=pl.Series([letter for letter, _ in found], dtype=pl.String),
        beyond=pl.Series([beyond for _, beyond in found], dtype=pl.String),
    )
    drawn = pl.col("beyond").str.contains("noise")
    return rows.with_columns(oracle=pl.col("attack").is_in(oracles) | drawn).drop("images")

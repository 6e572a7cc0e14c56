"""What one attack made of one reply under one adversary, from its rows alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from fedsim.audit.working import certain_of


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What one attack made of one reply under one adversary.

    Args:
        letter: of the adversary.
        subject: whose reply, as the page names it.
        scored: whether the truth was there.
        attack: by name; `stage` is the attack that answered in its place, of a cascade.
        status, reason: as in the rows; of the first of them.
        images: that it answered, of `of` that there were; `of` is None where nobody knows.
        rebuilt: how many count as rebuilt.
        psnr: of the best image in dB; None without a truth.
        ssim: of the image that is most alike by it; None without a truth.
        median: of the PSNR, over all.
        loss, stopped, iterations: of the attack itself.
        beyond: what it was told that no real server has.
        job: where the pictures are.
    """

    letter: str
    subject: str
    scored: bool
    attack: str
    stage: str
    status: str
    reason: str
    images: int
    of: int | None
    rebuilt: int
    psnr: float | None
    ssim: float | None
    median: float | None
    loss: float | None
    stopped: str | None
    iterations: int | None
    seconds: float | None
    beyond: str
    job: str | None


def tried(rows: pl.DataFrame, *, letter: str, scored: bool, guess: Mapping[int, float]) -> Tried:
    """The rows of one attempt on one subject, as one.

    Args:
        guess: by sample the PSNR of a guess that never looks at the update.
    """
    found = rows.to_dicts()
    first = found[0]
    answered = [row for row in found if row["status"] == "ok"]
    certain = certain_of(first["details"]) if answered else []
    if scored:
        rebuilt = sum(
            bool(row["leaked_psnr"] or row["leaked_ssim"]) and row["psnr"] > guess.get(row["sample"], 0.0)
            for row in answered
        )
    else:
        rebuilt = sum(certain)
    levels = sorted(row["psnr"] for row in answered if row["psnr"] is not None)
    alike = [row["ssim"] for row in answered if row["ssim"] is not None]
    return Tried(
        letter=letter,
        subject=first["dataset"],
        scored=scored,
        attack=first["attack"],
        stage=_stage(first["details"]),
        status=first["status"],
        reason=first["reason"] or "",
        images=len(answered),
        of=len(found) if scored else None,
        rebuilt=rebuilt,
        psnr=levels[-1] if levels else None,
        ssim=max(alike, default=None),
        median=levels[len(levels) // 2] if levels else None,
        loss=first["attack_loss"],
        stopped=first["stopped"],
        iterations=first["iterations"],
        seconds=first["seconds"],
        beyond=first["beyond"] or "",
        job=first["job"],
    )


def strongest(found: Sequence[Tried]) -> Tried | None:
    """By what it rebuilt, then by its best image; an answer before none."""
    feasible = [one for one in found if not one.beyond] or list(found)
    return max(feasible, key=lambda one: (one.rebuilt, one.psnr or 0.0, one.images), default=None)


def spoken(one: Tried) -> str:
    """`the cascade (first linear)`."""
    name = one.attack.replace("_", " ")
    return f"{name} ({one.stage.replace('_', ' ')})" if one.stage and one.stage != one.attack else name


def _stage(details: str | None) -> str:
    stage = json.loads(details or "{}").get("stage", "")
    return stage if isinstance(stage, str) else ""

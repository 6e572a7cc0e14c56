"""A row of a board as code reads it, so that a column that is misspelt is found before anything runs."""

from __future__ import annotations

from typing import NotRequired, TypedDict, cast

import polars as pl


class Row(TypedDict):
    """Of the columns of `COLUMNS` those that are read one by one; what each means stands there.

    `psnr` is that of a row which has one: whoever judges rows has left the others out.
    """

    setting_label: str
    defense_label: str
    attack_label: str
    told: str
    role: str
    letter: str | None
    beyond: str
    baseline: bool
    informed: bool
    rank: int | None
    tied: bool
    psnr: float
    psnr_low: float | None
    psnr_high: float | None
    ssim: float | None
    lpips: float | None
    mask_accuracy: float | None
    leaked_psnr: float | None
    identified: float | None
    level: float | None
    chosen_psnr: float | None
    label_accuracy: float | None
    iterations: float | None
    at_budget: float | None
    seconds: float | None
    utility: float | None
    utility_low: float | None
    utility_high: float | None
    utility_seeds: int
    utility_reachable: float | None
    bytes_relative: float | None
    cost_of: str | None
    epsilon: float | None
    epsilon_prv: float | None
    delta: float | None
    n: int
    answered: int
    clients: int
    not_applicable: int
    failed: int
    reason: str | None
    stages: str | None
    dropout: float | None
    attack: str
    attack_params: str
    defense_parts: str
    defense_params: str
    stem: NotRequired[str]
    """Of a board that is made of entries: the name of the entry's file."""


def rows_of(board: pl.DataFrame) -> list[Row]:
    """The rows of a board, in its order."""
    return cast(list[Row], board.to_dicts())

"""Numbers as they are printed, in the terminal, on the page and above the pictures: one rule for each quantity."""

from __future__ import annotations

import math

NONE = "–"
"""Stands where a number does not exist."""


def number(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:.{digits}f}"
    return text[1:] if float(text) == 0 and text.startswith("-") else text


def decibel(value: float | None) -> str:
    return number(value, 1)


def percent(value: float | None) -> str:
    return NONE if value is None else f"{number(100 * value, 0)} %"


def interval(low: float | None, high: float | None, digits: int) -> str:
    """`12.0–14.5`, or nothing where there is no interval."""
    return "" if low is None or high is None else f"{number(low, digits)}–{number(high, digits)}"


def percent_interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{interval(100 * low, 100 * high, 0)} %"


def count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    if value is None:
        return NONE
    return number(value, 2 if value < 1 else 1 if value < 100 else 0)


def epsilon(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}" if math.isfinite(value) else "∞"


def spent(renyi: float, prv: float | None) -> str:
    """An epsilon with the tighter one of the same mechanism beside it, `1.88 (1.52 by PRV)`, where there is one."""
    return epsilon(renyi) if prv is None else f"{epsilon(renyi)} ({epsilon(prv)} by PRV)"


def times(value: float | None) -> str:
    """A ratio, `0.13`, with the digits that tell it from others; and 1 of what is hardly more or less."""
    if value is None:
        return NONE
    return "1" if abs(value - 1) < 0.005 else f"{value:.2g}" if value < 10 else number(value, 0)


def rank_text(rank: object, tied: bool) -> str:
    """`2`, or `2=` for a tie."""
    return "" if rank is None else f"{rank}=" if tied else f"{rank}"


def accuracy(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A share as `91 %`, or `91.0 %` where its interval is narrow enough for a decimal."""
    if value is None:
        return NONE
    wide = low is None or high is None or high - low > 0.01
    return f"{number(100 * value, 0 if wide else 1)} %"


def points(loss: float | None, slack: float | None) -> str:
    """A difference of two shares in percentage points, `7 ± 3`, with the digits that its interval carries."""
    if loss is None:
        return NONE
    if slack is None:
        return number(100 * loss, 0)
    digits = 0 if slack > 0.005 else 1
    return f"{number(100 * loss, digits)} ± {number(100 * slack, digits)}"


def level_text(level: float) -> str:
    """The level of an interval, `87.5 %`."""
    return f"{100 * level:.3g} %"


def images(number: int) -> str:
    """`1 image`, `3 images`."""
    return f"{number} image{'' if number == 1 else 's'}"


def shortened(text: str, length: int) -> str:
    """The text on one line, cut at so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}…"

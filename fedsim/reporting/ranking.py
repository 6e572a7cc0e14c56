"""Ranks from intervals: what cannot be told apart ties."""

from __future__ import annotations

import math
from collections.abc import Sequence

Span = tuple[float | None, float | None]
"""An interval, low and high; an end that is not known is None."""


def ranks(spans: Sequence[Span]) -> list[tuple[int, bool]]:
    """Rank and whether it is a tie, for each of the intervals; the highest values come first.

    A rank is one more than the number of intervals that lie wholly above; two that overlap tie. Something without an
    interval (one image) is told apart from none.
    """
    ends = [(-math.inf if low is None else low, math.inf if high is None else high) for low, high in spans]
    return [
        (
            1 + sum(other > high for other, _ in ends),
            any(at != own and a <= high and low <= b for at, (a, b) in enumerate(ends)),
        )
        for own, (low, high) in enumerate(ends)
    ]

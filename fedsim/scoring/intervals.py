"""Intervals with the coverage that they claim, whatever the scores are distributed like.

Scores of attacks are often bimodal (8 dB or 40), so nothing is assumed of their distribution. The independent units are
clients: images of one batch were rebuilt from one update. All is conditional on the seeds of a run: it says how other
clients of the same federations would fare, not how other federations would.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.stats import beta, binom, t

LEVEL = 0.95
ENOUGH = 6
"""Units below which no distribution-free interval of a median reaches 95 %: [min, max] covers 1 - 2^(1 - n)."""

Span = tuple[float | None, float | None]


def level(units: int) -> float | None:
    """The level of a median's interval from so many units: 0.95, or that of their range where they are fewer than 6."""
    if units < 2:
        return None
    return LEVEL if units >= ENOUGH else 1 - 0.5 ** (units - 1)


def of_median(values: Sequence[float] | np.ndarray) -> Span:
    """The interval between two order statistics that covers the median at `level(len(values))` (David and Nagaraja,
    *Order statistics*, 2003, section 7.1); none for a single value."""
    ordered = np.sort(np.asarray(values, dtype=float))
    if len(ordered) < 2:
        return None, None
    out = _left_out(len(ordered))
    return float(ordered[out]), float(ordered[-1 - out])


@cache
def _left_out(units: int) -> int:
    """How many of the lowest, and of the highest, lie outside: the most that leaves the coverage at 95 %."""
    out = 0
    while units >= ENOUGH and 2 * binom.cdf(out + 1, units, 0.5) <= 1 - LEVEL:
        out += 1
    return out


@cache
def of_share(successes: float, units: int) -> tuple[float, float]:
    """Of the mean of `units` shares in [0, 1] that add up to `successes`: Clopper and Pearson's interval.

    It is exact where each share is 0 or 1 (one image a client), at any number of units. Between these it is wider than
    it need be, since no shares of that mean vary more than zeros and ones.
    """
    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, successes, units - successes + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, units - successes)) if successes < units else 1.0
    return low, high


def of_accuracy(accuracies: Sequence[float], images: int | None) -> Span:
    """Of a test accuracy: over the seeds that it is the mean of, and over test images like those it was measured on.

    Args:
        accuracies: in [0, 1], one for each seed.
        images: how many test images, the same for all seeds; None where that is not known.

    Returns:
        For one seed the interval over images alone, of Clopper and Pearson. For several the errors of both kinds
        together, Student's t over the seeds. None where there is neither.
    """
    if len(accuracies) == 1:
        return (None, None) if images is None else of_share(round(accuracies[0] * images, 6), images)
    if not accuracies:
        return None, None
    mean, seeds = float(np.mean(accuracies)), len(accuracies)
    between = float(t.ppf((1 + LEVEL) / 2, seeds - 1)) * float(np.std(accuracies, ddof=1)) / seeds**0.5
    within = 0.0 if images is None else 1.96 * (mean * (1 - mean) / images) ** 0.5
    half = (between**2 + within**2) ** 0.5
    return max(0.0, mean - half), min(1.0, mean + half)

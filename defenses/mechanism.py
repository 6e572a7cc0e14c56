"""What the Gaussian mechanism spends, exactly."""

from __future__ import annotations

import math

from defenses.base import Accounting


def gaussian(noise: float, *, times: int, delta: float, note: str) -> Accounting:
    """The guarantee of `times` releases with Gaussian noise, by the exact formula of Balle and Wang (ICML 2018): many
    Gaussian mechanisms are one with less noise.

    Args:
        noise: standard deviation over how far what is released can be apart, in L2 norm; 0 gives no privacy.
    """
    epsilon = _epsilon(noise / math.sqrt(times), delta) if noise else math.inf
    return Accounting(epsilon=epsilon, delta=delta, note=note)


def _epsilon(noise: float, delta: float) -> float:
    """The smallest epsilon for which Gaussian noise, in units of the sensitivity, is (epsilon, delta)-private."""

    def beyond(quantile: float) -> float:
        return math.erfc(quantile / math.sqrt(2)) / 2

    def failing(epsilon: float) -> float:
        middle, half = epsilon * noise, 1 / (2 * noise)
        return beyond(middle - half) - math.exp(epsilon) * beyond(middle + half)

    low, high = 0.0, 1.0
    if failing(low) <= delta:
        return low
    while failing(high) > delta:
        low, high = high, 2 * high
        if high > 700:  # beyond what a float can hold, and beyond all meaning
            return math.inf
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if failing(middle) > delta else (low, middle)
    return high

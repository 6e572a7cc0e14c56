"""What the Gaussian mechanism spends: exactly, and on batches that are Poisson-sampled by Opacus' accountants."""

from __future__ import annotations

import math

import numpy as np

from defenses.base import Accounting

MEANS_NOTHING = 100.0
"""An epsilon above this is no guarantee that anybody could use; the numbers of the tighter accountant are no longer
finite soon after."""
_ERROR = 0.01
"""Of the tighter accountant's epsilon."""
POINTS = 1 << 24
"""The longest mesh on which the privacy loss is convolved: some seconds, and a gigabyte."""


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


def poisson_sampled(noise: float, *, rate: float, times: int, delta: float, note: str) -> Accounting:
    """The guarantee of `times` sums over batches to which each example belongs with a chance of `rate`.

    `epsilon` is by Renyi divergences (Mironov, Talwar, Zhang, 2019), `epsilon_prv` by the distribution of the privacy
    loss itself (Gopi, Lee, Wutschitz, NeurIPS 2021), up to 0.01 and never below the truth. The latter is None where
    the former is above 100, or where it would take too long.

    Args:
        noise: standard deviation over what one example can change the sum by, in L2 norm; 0 gives no privacy.
        rate: in (0, 1].
    """
    if noise == 0:
        return Accounting(epsilon=math.inf, delta=delta, note=note)
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise, rate, times)]
    epsilon = float(accountant.get_epsilon(delta=delta))
    return Accounting(epsilon=epsilon, delta=delta, note=note, epsilon_prv=_tighter(epsilon, noise, rate, times, delta))


def _tighter(epsilon: float, noise: float, rate: float, times: int, delta: float) -> float | None:
    mesh = _ERROR / math.sqrt(times * math.log(12_000 / delta) / 2)
    if epsilon > MEANS_NOTHING or 2 * (epsilon + 10) / mesh > POINTS:
        return None
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise, rate, times)]
    with np.errstate(divide="ignore"):  # of log(1 - rate), where every example is in every batch
        return float(accountant.get_epsilon(delta=delta, eps_error=_ERROR))

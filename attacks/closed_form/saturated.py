"""The scale of an image of which only a noisy multiple is known, from the range of pixels.

Pixels lie between black and white, and many of an image lie at one of the ends. So of a vector v with noise of known
deviation t on each entry, the multiple a v is judged by the likelihood of v, where each pixel is black, or white, or
anywhere between at the same chance; how many are which is estimated along (empirical Bayes). What a bias says of
`1 / a` is one more number of that likelihood. The answer is the mean of each pixel's posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SWEEPS = 20  # of the shares of black, white and grey
LENGTHS = 61  # to try on each side of zero, over this many decades below the longest image
DECADES = 3.0
ROUNDS = 8  # of which each looks between the neighbours of the best,
FINER = 15  # at so many places
_SHARPEST = 1e-7  # of the vector's length: what the last round can tell apart
_LEAST = 1e-3  # the least share of pixels at an end, or between


def scaled(
    vector: Tensor, deviation: Tensor, low: Tensor, high: Tensor, *, anchor: tuple[float, float] | None
) -> tuple[Tensor, float]:
    """The likeliest image, and the multiple of the vector that it is.

    Args:
        vector: (n,) the direction of the image, with noise on it.
        deviation: (n,) of the noise, in units of the vector; infinite where nothing is known.
        low, high: (n,) black and white of each pixel, in normalised units.
        anchor: what 1 becomes in the vector's units, and its deviation; None where nothing says it.
    """
    deviation = deviation.clamp(_SHARPEST * float(vector.norm()), 1e6 * float(vector.norm()))

    def judged(factor: float, blur: float) -> tuple[float, Tensor]:
        blurred = (deviation.square() + (blur * vector).square()).sqrt()
        likelihood, image = _posterior(vector, blurred, low / factor, high / factor)
        if anchor is not None:
            likelihood -= (anchor[0] - 1 / factor) ** 2 / (anchor[1] ** 2 + (blur * anchor[0]) ** 2) / 2
        return likelihood, image * factor

    factor = _likeliest(lambda factor, blur: judged(factor, blur)[0], _candidates(vector, low, high, anchor))
    return judged(factor, 0.0)[1], factor


def _candidates(
    vector: Tensor, low: Tensor, high: Tensor, anchor: tuple[float, float] | None
) -> list[Tensor]:
    """Factors to try, on each side of zero that is possible: all that are within reach of the anchor."""
    longest = float(torch.maximum(low.abs(), high.abs()).norm() / vector.norm())
    shortest = longest * 10**-DECADES
    found = []
    for sign in (1.0, -1.0):
        least, most = shortest, longest
        if anchor is not None:
            middle, reach = sign * anchor[0], 5 * anchor[1]
            if middle + reach <= 0:
                continue
            least = max(least, 1 / (middle + reach))
            most = min(most, 1 / (middle - reach)) if middle > reach else most
        if most >= least:
            found.append(sign * torch.logspace(math.log10(least), math.log10(most), LENGTHS, dtype=torch.float64))
    if not found and anchor is not None:
        return [torch.tensor([1 / anchor[0]], dtype=torch.float64)]
    return found


def _likeliest(judge: Callable[[float, float], float], candidates: list[Tensor]) -> float:
    """Of factors, finer and finer around the likeliest: none is so exact that its neighbours cannot see it, since as
    much of the vector as they are apart counts as noise."""
    best = 0.0
    for _ in range(ROUNDS):
        blur = max((float((part[1] / part[0]).abs().log()) for part in candidates if len(part) > 1), default=0.0)
        places = [(side, place) for side, part in enumerate(candidates) for place in range(len(part))]
        side, place = max(places, key=lambda at: judge(float(candidates[at[0]][at[1]]), blur))
        part = candidates[side]
        best = float(part[place])
        if len(part) == 1:
            break
        ends = part[max(place - 1, 0)], part[min(place + 1, len(part) - 1)]
        candidates = [torch.linspace(float(ends[0]), float(ends[1]), FINER, dtype=torch.float64)]
    return best


def _posterior(vector: Tensor, deviation: Tensor, low: Tensor, high: Tensor) -> tuple[float, Tensor]:
    """The log-likelihood of a vector whose entries lie between low and high, and the mean of each."""
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    ends = torch.stack([low, high])
    at = -((vector - ends) / deviation).square() / 2 - deviation.log() - math.log(2 * math.pi) / 2
    first, last = (low - vector) / deviation, (high - vector) / deviation
    between = _log_mass(first, last) - (high - low).log()
    densities = torch.stack([at[0], at[1], between])
    shares = torch.full((3, 1), 1 / 3, dtype=vector.dtype)
    for _ in range(SWEEPS):
        joint = densities + shares.log()
        whole = joint.logsumexp(0)
        chances = (joint - whole).exp()
        shares = chances.mean(1, keepdim=True).clamp_min(_LEAST)
        shares = shares / shares.sum()
    inside = _truncated_mean(vector, deviation, first, last).clamp(low, high)
    mean = chances[0] * low + chances[1] * high + chances[2] * inside
    return float(whole.sum()), mean


def _log_mass(first: Tensor, last: Tensor) -> Tensor:
    """log of the standard normal mass of an interval, without cancellation in the tails."""
    flip = first + last > 0
    near, far = torch.where(flip, -first, last), torch.where(flip, -last, first)  # far < near, near to the middle
    upper, lower = torch.special.log_ndtr(near), torch.special.log_ndtr(far)
    return upper + torch.log1p(-(lower - upper).exp().clamp_max(1 - 1e-15))


def _truncated_mean(middle: Tensor, deviation: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Of a normal number given that it lies in an interval."""
    mass = _log_mass(first, last)
    ends = [(-(one.square()) / 2 - math.log(2 * math.pi) / 2 - mass).exp() for one in (first, last)]
    return middle + deviation * (ends[0] - ends[1])

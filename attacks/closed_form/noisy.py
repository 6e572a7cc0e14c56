"""One image from the noisy update of a first linear layer, where the noise on each entry is known.

At batch 1 `[dL/dW, dL/db] = delta [x, 1]^T`, of whose entries a defense made what `defenses.client.spread` says:

*Added noise.* For noise of one deviation the likeliest vector is the leading right singular vector (Eckart and Young);
where the deviations differ entries are weighed by one over their variance, and alternating least squares start there.
Where entries were rounded at random, an entry's variance depends on what it was, so that they are weighed again by what
the fit says of each (iteratively reweighted least squares). All units say the same of x, so that of noise s on an entry
about `s / |delta|` is left on a pixel.

*Replaced entries.* What was kept is exactly of rank one, and what was not is noise that does not know of it. So the
entries that agree on one vector to their last digits are those that were kept: expectation-maximisation over which
these are, from several starts, with a tolerance that shrinks down to rounding (graduated non-convexity: Blake and
Zisserman, *Visual Reconstruction*, 1987). The start whose fit is likeliest is the answer, and where far more entries
agree than there are numbers to fit, no chance explains it.

What a vector is multiplied by stands in the column of the bias, as any entry does: with noise on it. The range of
pixels says it too: some are black or white (`attacks.closed_form.saturated`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.closed_form.base import Puzzle
from attacks.closed_form.first_layer import FirstLinear
from attacks.precision import COMPUTED

SWEEPS = 120
NARROWER = 0.81  # the squared tolerance of a sweep over that of the one before, or over what is left
NARROWEST = 0.01  # of rounding
SETTLED = 1e-9
ENOUGH = 5.0  # of the steps that entries were rounded to, over the numbers that are fitted to them
AGAIN = 20  # times that entries are weighed by what they are found to be
SPARE = 3.0  # entries that agree, over the numbers that were fitted to them, that are no chance
_TINY = 1e-300


@dataclass(frozen=True)
class Denoised:
    """What a noisy update says of the vector that entered a layer.

    Args:
        vector: (n,) float64, of length 1 up to a factor: the inputs, and, where there is a bias, the 1 that it sees.
        deviation: (n,) of the noise left on each entry; infinite where the update says nothing.
        weights: (units, n) what each entry of the layer's gradient weighed.
        residual: the share of the entries, so weighed, that the vector does not explain, in [0, 1].
        agreeing: the share of the entries that are taken to be as they were; None where noise was added to all.
        sure: far more entries agree than chance explains; False where noise was added to all.
    """

    vector: Tensor
    deviation: Tensor
    weights: Tensor
    residual: float
    agreeing: float | None
    sure: bool


def denoise(puzzle: Puzzle, layer: FirstLinear, *, bias: bool = True) -> Denoised:
    """The vector that entered the layer, as far as the update says it.

    Args:
        bias: take its gradient into account, if there is one.
    """
    spread = puzzle.spread
    assert spread is not None
    names = [layer.weight, layer.bias] if bias and layer.bias is not None else [layer.weight]
    shown = {name: _columns(puzzle.gradient(name)) for name in names}
    unit = torch.cat(list(shown.values()), 1).abs().max()

    def whole(values: Mapping[str, Tensor]) -> Tensor:
        """A number, or numbers, for each entry of the layer's gradient."""
        full = [values[name].expand_as(puzzle.gradient(name)) for name in names]
        return torch.cat([_columns(value) for value in full], 1)

    matrix = torch.cat(list(shown.values()), 1) / unit
    added = whole(spread.added)
    eps = torch.finfo(getattr(torch, puzzle.observation.precision)).eps
    variance = (added / unit).square() + (COMPUTED * eps * matrix).square() + (eps * _typical(matrix)).square()
    if spread.alone is None:
        steps = spread.steps
        if steps is None or not all(bool(steps[name].all()) for name in names):
            return _of_all(matrix, variance, None)
        counts = {name: (shown[name] / steps[name]).abs().mean() for name in names}
        return _of_all(matrix, variance, _Rounded(whole(steps) / unit, whole(counts)))
    return of_those_that_agree(matrix, variance, variance + (whole(spread.alone) / unit).square())


def noisy(puzzle: Puzzle, layer: FirstLinear) -> bool:
    """Whether a known defense put noise on the layer's gradient."""
    spread = puzzle.spread
    return spread is not None and any(spread.noisy(name) for name in (layer.weight, layer.bias) if name is not None)


def _columns(value: Tensor) -> Tensor:
    return value.double().reshape(len(value), -1)


def _typical(matrix: Tensor) -> Tensor:
    """How large the entries of each unit are (m, 1), whatever a few of them are."""
    sizes = matrix.abs().median(1, keepdim=True).values
    return torch.where(sizes > 0, sizes, sizes.max()).clamp_min(_TINY)


@dataclass(frozen=True)
class _Rounded:
    """Entries that were rounded to a multiple of a step at random.

    Args:
        step: (m, n).
        counts: (m, n) how many steps an entry of its parameter has on average. No entry is foretold so well that its
            variance, in squared steps, is known to be less; of entries of many steps a sixth is the average.
    """

    step: Tensor
    counts: Tensor

    @property
    def tells(self) -> bool:
        """Whether there is enough of them to say of each what its variance is."""
        return float(self.counts.sum()) >= ENOUGH * sum(self.counts.shape)

    def variance(self, entries: Tensor) -> Tensor:
        above = (entries / self.step).abs().frac()
        return torch.maximum(above * (1 - above), self.counts.clamp_max(1 / 6)) * self.step.square()


def _of_all(matrix: Tensor, variance: Tensor, rounded: _Rounded | None) -> Denoised:
    """Noise on every entry, each of its own precision."""
    weights = 1 / variance
    roots = weights.sqrt()
    column = (weights.mean(0)).sqrt()
    vector = leading(matrix * roots) / torch.where(column > 0, column, 1) * (column > 0)
    vector, delta = _alternated(matrix, weights, vector, SWEEPS)
    for _ in range(AGAIN if rounded is not None and rounded.tells else 0):
        assert rounded is not None
        weights = 1 / torch.maximum(rounded.variance(torch.outer(delta, vector)), variance.min())
        vector, delta = _alternated(matrix, weights, vector, 2)
    scale = 1 / weights.max()  # the variance of what weighs 1
    weights = weights / weights.max()
    rest = (matrix - torch.outer(delta, vector)).square() * weights
    whole = (matrix.square() * weights).sum()
    energy = weights.T @ delta.square()
    counted = int(weights.count_nonzero())
    level = max(float(scale), float(rest.sum()) / max(counted - sum(weights.shape), 1))
    share = _real(float(whole - rest.sum()) / level, weights)
    deviation = (level / (share * energy).clamp_min(1e-300)).sqrt()
    residual = float((rest.sum() / whole).sqrt())
    return Denoised(vector, torch.where(energy > 0, deviation, torch.inf), weights, residual, None, False)


def _real(square: float, weights: Tensor) -> float:
    """How much of the energy of a leading singular vector can be trusted, given its squared singular value over the
    variance of the noise (Benaych-Georges and Nadakuditi, *The singular values and vectors of low rank perturbations of
    large rectangular random matrices*, 2012)."""
    rows, columns = (float(n) for n in weights.shape)
    gap = square - rows - columns
    root = gap**2 - 4 * rows * columns
    if gap <= 0 or root <= 0:
        return 0.01  # below what any noise has
    signal = (gap + math.sqrt(root)) / 2
    return max((signal**2 - rows * columns) / (signal + rows) / square, 0.01)


def of_those_that_agree(matrix: Tensor, within: Tensor, alone: Tensor) -> Denoised:
    """Each entry either on the vector, to the variance `within`, or of mean 0 and variance `alone`.

    The starts: with each unit at the same length, at first or all along, lest large noise decides; by signs alone; and
    as it is. The first of which no chance explains the fit is the answer, or else the likeliest."""
    sizes, whole = matrix.norm(dim=1, keepdim=True).clamp_min(_TINY), torch.ones_like(matrix[:, :1])
    found: list[tuple[float, Denoised]] = []
    for start, unit in ((matrix / sizes, whole), (matrix / sizes, sizes), (matrix.sign(), whole), (matrix, whole)):
        scaled = matrix / unit, within / unit.square(), alone / unit.square()
        vector, delta, kept, likelihood = _agreed(*scaled, leading(start))
        delta, likelihood = delta * unit[:, 0], likelihood - matrix.shape[1] * float(unit.log().sum())
        weights = kept / within
        energy, explained = weights.T @ delta.square(), (matrix.square() * weights).sum()
        rest = ((matrix - torch.outer(delta, vector)).square() * weights).sum()
        # a zero in a unit without a gradient agrees with any vector
        says = kept * (delta.abs()[:, None] * vector.square().mean().sqrt() > SPARE * within.sqrt())
        sure = bool((says.sum(0) >= SPARE).all()) and float(says.sum()) >= SPARE * (sum(matrix.shape) - 1)
        answer = Denoised(
            vector=vector,
            deviation=torch.where(energy > 0, energy.clamp_min(_TINY).rsqrt(), torch.inf),
            weights=weights / weights.max(),
            residual=float((rest / explained.clamp_min(_TINY)).sqrt()),
            agreeing=float(kept.mean()),
            sure=sure,
        )
        if sure:
            return answer
        found.append((likelihood, answer))
    return max(found, key=lambda one: one[0])[1]


def _agreed(matrix: Tensor, within: Tensor, alone: Tensor, vector: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """A vector, its factors, how sure each entry agrees with them, and the log-likelihood of them all."""
    vector, delta, _, _ = _expected(matrix, within, alone, vector, matrix @ vector)
    # what one unit, or one input, is stuck at is not what most of its entries agree on
    delta = _commonest(matrix.T, vector, delta)
    vector = torch.nn.functional.normalize(_commonest(matrix, delta, vector), dim=0)
    return _expected(matrix, within, alone, vector, _commonest(matrix.T, vector, delta))


def _expected(
    matrix: Tensor, within: Tensor, alone: Tensor, vector: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor, Tensor, float]:
    """As `_agreed`, by expectation-maximisation from there on."""
    tolerance = float((matrix - torch.outer(delta, vector)).abs().median()) ** 2
    least = NARROWEST * float(within.median())
    share, kept, likelihood = 0.5, torch.ones_like(matrix), 0.0
    differs = -(matrix.square() / alone + alone.log()) / 2
    for _ in range(SWEEPS):
        rest = (matrix - torch.outer(delta, vector)).square()
        variance = within + tolerance
        agrees = math.log(share) - (rest / variance + variance.log()) / 2
        odds = agrees - differs - math.log(1 - share)
        kept, likelihood = odds.sigmoid(), float((agrees + torch.nn.functional.softplus(-odds)).sum())
        if tolerance <= least:
            break
        share = min(max(float(kept.mean()), 1e-6), 1 - 1e-6)
        vector, delta = _alternated(matrix, kept / variance, vector, 1)
        rest = (matrix - torch.outer(delta, vector)).square()
        fits = float((kept * rest).sum() / kept.sum().clamp_min(_TINY))
        tolerance = min(NARROWER * tolerance, NARROWER * fits)
    return vector, delta, kept, likelihood


def _commonest(matrix: Tensor, factors: Tensor, otherwise: Tensor) -> Tensor:
    """For each column of a matrix (m, n) the number (n,) by which most entries are multiples of these factors (m,).

    That is the middle of the shortest interval that holds some of the quotients: where nothing was replaced they agree.
    """
    chosen = factors.abs() >= factors[factors != 0].abs().median() / 10 if bool(factors.any()) else factors != 0
    count = int(chosen.sum())
    window = max(count // 8, 3)
    if count <= window:
        return otherwise
    quotients = (matrix[chosen] / factors[chosen, None]).sort(0).values
    spans = quotients[window:] - quotients[:-window]
    place = spans.argmin(0) + window // 2
    return quotients.gather(0, place[None])[0]


def leading(matrix: Tensor) -> Tensor:
    """The leading right singular vector (n,) of a matrix (m, n), by the eigenvectors of the smaller of its squares."""
    wide = matrix.shape[0] <= matrix.shape[1]
    side = matrix if wide else matrix.T
    first = torch.linalg.eigh(side @ side.T)[1][:, -1]
    return torch.nn.functional.normalize(matrix.T @ first if wide else first, dim=0)


def _alternated(matrix: Tensor, weights: Tensor, vector: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
    """A vector (n,) of length 1 and factors (m,) that explain a weighed matrix best, by alternating least squares."""
    weights = weights / weights.max()
    weighed = weights * matrix
    delta = _fit(weighed, weights, vector)
    for _ in range(sweeps):
        found = torch.nn.functional.normalize(_fit(weighed.T, weights.T, delta), dim=0)
        moved = float((found - vector).norm())
        vector, delta = found, _fit(weighed, weights, found)
        if moved <= SETTLED:
            break
    return vector, delta


def _fit(weighed: Tensor, weights: Tensor, vector: Tensor) -> Tensor:
    energy = weights @ vector.square()
    return torch.where(energy > 0, weighed @ vector / torch.where(energy > 0, energy, 1), 0)

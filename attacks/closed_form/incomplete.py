"""One image from an update that says some entries only, or some better than others: a rank-one matrix to complete.

At batch 1 a first linear layer has `[dL/dW, dL/db] = delta [x, 1]^T`. Where the client sent only the largest entries,
the zeros are no zeros but *missing*. Two entries of a row give the quotient of their pixels, two of a column that of
their deltas; so over the bipartite graph of the entries that are left, whose edges join units and pixels, a value
spreads to all that is connected with it. The column of the bias starts it: its pixel is 1. Alternating least squares do
this, and weigh each entry by its precision: what is read of a small delta counts little.

Without the bias it starts in the largest entry, and the length of x stays unknown.

An optimizer that divides the gradient by its size, as Adam does, leaves of large entries little more than a sign, and
says small ones well (`Optimizer.first_estimate`). Then each entry weighs by its own precision, and since that is known,
so is the error of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable
from attacks.closed_form.base import Puzzle
from attacks.closed_form.certify import in_range
from attacks.closed_form.first_layer import first_linear
from attacks.observation import Observation, ThreatModel

SWEEPS = 100
SETTLED = 1e-12  # relative change of the pixels in a sweep
MISFIT = 3.0  # standard deviations that entries of known precision may be off, in the root mean square


@dataclass(frozen=True)
class Completed:
    """What a pruned update says of one image.

    Args:
        image: (1, C, H, W) in normalised units, float64; 0, the public mean, where the update says nothing.
        determined: (1, C, H, W) bool: the pixels that the update says.
        anchored: whether the scale is known; otherwise the image is right up to a factor.
        entries: how many entries of the layer were left.
        residual: the share of these that the image does not explain, in [0, 1].
        error: of the image or its direction, relatively; infinite where what is left is not that of one image.
    """

    image: Tensor
    determined: Tensor
    anchored: bool
    entries: int
    residual: float
    error: float


def pruned(puzzle: Puzzle) -> bool:
    """Whether a defense that is known took entries away, so that what is left of the update is not all of it."""
    return puzzle.spread is not None and puzzle.spread.misses


def completed(observation: Observation, threat_model: ThreatModel, model: nn.Module) -> Completed:
    """The image of one example as far as a pruned update says it: a start for attacks that search for the rest.

    Raises:
        NotApplicable: no entry is known to be taken away, the client sent more than one image, or the first layer is
            not linear.
    """
    puzzle = Puzzle.of(observation, threat_model, model)
    if not pruned(puzzle):
        raise NotApplicable("no entry of the update is known to be pruned")
    if puzzle.images != 1:
        raise NotApplicable("a pruned update is completed for one image only")
    return complete(puzzle)


def complete(puzzle: Puzzle) -> Completed:
    """As `completed`, of a puzzle whose update is pruned."""
    layer = first_linear(puzzle)
    matrix, weights = entries(puzzle, layer.weight, layer.bias)
    anchored = layer.bias is not None
    unit = matrix.abs().max()
    vector, known, delta = rank_one(matrix / unit, weights / weights.max(), anchored=anchored)
    delta = delta * unit
    rest = (matrix - torch.outer(delta, vector)).square() * weights
    residual = float((rest.sum() / (matrix.square() * weights).sum()).sqrt())
    error = residual if puzzle.estimates is None else _error(rest, weights, vector, delta, anchored=anchored)
    inputs = vector[:-1] if anchored else vector
    determined = known[:-1] if anchored else known
    shape = puzzle.observation.input_shape
    image = layer.image(inputs[None], shape)
    image = in_range(image, puzzle.observation) if anchored else image
    left = int(weights.count_nonzero())
    return Completed(image, layer.image(determined[None], shape), anchored, left, residual, error)


def entries(puzzle: Puzzle, weight: str, bias: str | None) -> tuple[Tensor, Tensor]:
    """[dL/dW, dL/db], and what its entries weigh, one over their variance or, where all are alike, 1: both (units,
    inputs [+ 1]), zero where an entry is missing."""
    columns, weights = [], []
    for name in (weight, bias) if bias is not None else (weight,):
        seen = torch.ones_like(puzzle.observation.update[name], dtype=torch.bool)
        if puzzle.spread is not None:
            seen = seen & puzzle.spread.added[name].isfinite()
        precision = puzzle.precision(name)
        value = puzzle.gradient(name)
        columns.append((value * seen).view(len(value), -1))
        weights.append((seen if precision is None else seen * precision.square()).to(value).view(len(value), -1))
    return torch.cat(columns, 1) * (torch.cat(weights, 1) > 0), torch.cat(weights, 1)


def _error(rest: Tensor, weights: Tensor, vector: Tensor, delta: Tensor, *, anchored: bool) -> float:
    """The relative error of a vector (n,) that the known precision of the entries leaves.

    Args:
        rest: (m, n) what is left of each entry, squared and weighed.
        weights: (m, n) one over the entries' variances.
    """
    freedom = max(int(weights.count_nonzero()) - sum(weights.shape), 1)
    misfit = float((rest.sum() / freedom).sqrt())
    if misfit > MISFIT:
        return math.inf
    energy = weights.T @ delta.square()
    variance = torch.where(energy > 0, 1 / energy.clamp_min(1e-300), 0)
    inputs = slice(0, -1) if anchored else slice(None)
    relative = float(variance[inputs].sum() / vector[inputs].square().sum())
    return max(1.0, misfit) * math.sqrt(relative + (float(variance[-1]) if anchored else 0.0))


def rank_one(matrix: Tensor, weights: Tensor, *, anchored: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors with `matrix = delta vector^T` on the entries that are left.

    Args:
        matrix: (m, n), zero elsewhere.
        weights: (m, n) of the squares of what is off, 0 elsewhere; bool where all that is left weighs the same.
        anchored: the vector's last entry is 1; otherwise that of the largest entry of the matrix is.

    Returns:
        The vector (n,), which of its entries are determined (n,), and delta (m,); what is not determined is zero.
    """
    start = matrix.shape[1] - 1 if anchored else int((matrix.square() * weights).argmax()) % matrix.shape[1]
    weights = weights.to(matrix)
    seen, weighed = weights > 0, weights * matrix
    vector = torch.zeros_like(matrix[0])
    vector[start] = 1
    known = vector != 0
    delta = torch.zeros_like(matrix[:, 0])
    for _ in range(SWEEPS):
        delta = _fit(weighed, weights, vector)
        found = _fit(weighed.T, weights.T, delta)
        if float(found[start]) != 0:
            found = found / found[start]
        reached = seen[delta != 0].any(0)
        settled = torch.equal(reached, known) and float((found - vector).norm()) <= SETTLED * float(found.norm())
        vector, known = found, reached
        if settled:
            break
    return vector, known, _fit(weighed, weights, vector)


def unexplained(matrix: Tensor, weights: Tensor, vectors: Tensor) -> Tensor:
    """How much of the entries that are left each vector (B, n) leaves if they are of rank one along it: (B,)."""
    weighed, whole = weights * matrix, (weights * matrix.square()).sum()
    fits = [torch.outer(_fit(weighed, weights, vector), vector) for vector in vectors.to(matrix)]
    return torch.stack([(((matrix - fit).square() * weights).sum() / whole).sqrt() for fit in fits])


def _fit(weighed: Tensor, weights: Tensor, vector: Tensor) -> Tensor:
    """The factor of each row that explains its entries best; 0 where none of them says anything."""
    energy = weights @ vector.square()
    return torch.where(energy > 0, weighed @ vector / torch.where(energy > 0, energy, 1), 0)

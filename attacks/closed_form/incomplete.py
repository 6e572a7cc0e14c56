"""One image from a pruned update: a rank-one matrix of which only the largest entries are left.

At batch 1 a first linear layer has `[dL/dW, dL/db] = delta [x, 1]^T`. Where the client sent only the largest entries,
the zeros are no zeros but *missing*. Two entries of a row give the quotient of their pixels, two of a column that of
their deltas; so over the bipartite graph of the entries that are left, whose edges join units and pixels, a value
spreads to all that is connected with it. The column of the bias starts it: its pixel is 1. Alternating least squares do
this, and weigh each entry by its precision: what is read of a small delta counts little.

Without the bias it starts in the largest entry, and the length of x stays unknown.
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
from attacks.updates import known_defense

SWEEPS = 100
SETTLED = 1e-12  # relative change of the pixels in a sweep


@dataclass(frozen=True)
class Completed:
    """What a pruned update says of one image.

    Args:
        image: (1, C, H, W) in normalised units, float64; 0, the public mean, where the update says nothing.
        determined: (1, C, H, W) bool: the pixels that the update says.
        anchored: whether the scale is known; otherwise the image is right up to a factor.
        entries: how many entries of the layer were left.
        residual: the share of these that the image does not explain, in [0, 1].
    """

    image: Tensor
    determined: Tensor
    anchored: bool
    entries: int
    residual: float


def pruned(observation: Observation) -> bool:
    """Whether the client is known to prune, and zeros of the update may be entries that it took away.

    Where fewer entries are left than it would keep, it took nothing away: the zeros are zeros.
    """
    parts = known_defense(observation).parts.values()
    shares = [float(part.keep) for part in parts if part.name == "pruning"]  # type: ignore[attr-defined]
    if not shares:
        return False
    total = sum(value.numel() for value in observation.update.values())
    left = sum(int(value.count_nonzero()) for value in observation.update.values())
    return math.ceil(min(shares) * total) <= left < total


def completed(observation: Observation, threat_model: ThreatModel, model: nn.Module) -> Completed:
    """The image of one example as far as a pruned update says it: a start for attacks that search for the rest.

    Raises:
        NotApplicable: the client is not known to prune, sent more than one image, or the first layer is not linear.
    """
    puzzle = Puzzle.of(observation, threat_model, model)
    if not pruned(puzzle.observation):
        raise NotApplicable("no entry of the update is known to be pruned")
    if puzzle.images != 1:
        raise NotApplicable("a pruned update is completed for one image only")
    return complete(puzzle)


def complete(puzzle: Puzzle) -> Completed:
    """As `completed`, of a puzzle whose update is pruned."""
    layer = first_linear(puzzle)
    matrix, left = entries(puzzle, layer.weight, layer.bias)
    anchored = layer.bias is not None
    unit = matrix.abs().max()
    vector, known, delta = rank_one(matrix / unit, left, anchored=anchored)
    residual = float(((matrix / unit - torch.outer(delta, vector)) * left).norm() / (matrix / unit).norm())
    inputs = vector[:-1] if anchored else vector
    determined = known[:-1] if anchored else known
    shape = puzzle.observation.input_shape
    image = layer.image(inputs[None], shape)
    image = in_range(image, puzzle.observation) if anchored else image
    return Completed(image, layer.image(determined[None], shape), anchored, int(left.sum()), residual)


def entries(puzzle: Puzzle, weight: str, bias: str | None) -> tuple[Tensor, Tensor]:
    """[dL/dW, dL/db], zero where an entry is missing, and where it is not: both (units, inputs [+ 1])."""
    update = puzzle.observation.update
    columns, left = [puzzle.gradient(weight)], [update[weight] != 0]
    if bias is not None:
        columns.append(puzzle.gradient(bias)[:, None])
        left.append((update[bias] != 0)[:, None])
    seen = torch.cat(left, 1)
    return torch.cat(columns, 1) * seen, seen


def rank_one(matrix: Tensor, left: Tensor, *, anchored: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors with `matrix = delta vector^T` on the entries that are left.

    Args:
        matrix: (m, n), zero elsewhere.
        left: (m, n) bool.
        anchored: the vector's last entry is 1; otherwise that of the largest entry of the matrix is.

    Returns:
        The vector (n,), which of its entries are determined (n,), and delta (m,); what is not determined is zero.
    """
    start = matrix.shape[1] - 1 if anchored else int(matrix.abs().argmax()) % matrix.shape[1]
    seen = left.to(matrix)
    vector = torch.zeros_like(matrix[0])
    vector[start] = 1
    known = vector != 0
    delta = torch.zeros_like(matrix[:, 0])
    for _ in range(SWEEPS):
        delta = _fit(matrix, seen, vector)
        found = _fit(matrix.T, seen.T, delta)
        if float(found[start]) != 0:
            found = found / found[start]
        reached = (seen.T @ (delta != 0).to(matrix)) > 0
        settled = torch.equal(reached, known) and float((found - vector).norm()) <= SETTLED * float(found.norm())
        vector, known = found, reached
        if settled:
            break
    return vector, known, _fit(matrix, seen, vector)


def unexplained(matrix: Tensor, left: Tensor, vectors: Tensor) -> Tensor:
    """How much of the entries that are left each vector (B, n) leaves if they are of rank one along it: (B,)."""
    seen = left.to(matrix)
    rest = [matrix - torch.outer(_fit(matrix, seen, vector), vector) * seen for vector in vectors.to(matrix)]
    return torch.stack([value.norm() for value in rest]) / matrix.norm()


def _fit(matrix: Tensor, seen: Tensor, vector: Tensor) -> Tensor:
    """The factor of each row that explains its entries best; 0 where none of them says anything."""
    energy = seen @ vector.square()
    return torch.where(energy > 0, matrix @ vector / torch.where(energy > 0, energy, 1), 0)

"""Independent components: the signals that were mixed, from mixtures of them and from what they look like.

Given signals (r, n), r linear mixtures of r unknown sources, find the coefficients w_b (r,) of which w_b @ signals is
source b, up to its length. Sources are spiky (of positive kurtosis), mixtures of them less so: of all directions of the
whitened signals those are taken at which the mean of log cosh of the values is least, a measure of negentropy:

1. *Where to look*: at right angles to each other. Fixed-point steps for all directions at once (Hyvärinen, *Fast and
   robust fixed-point algorithms for independent component analysis*, IEEE Transactions on Neural Networks 1999).
2. *There*: images are not quite uncorrelated, so that the directions are not quite at right angles. By gradient steps
   they may leave them, held apart by the logarithm of the volume that they span, as the likelihood has it (Pham and
   Garat, *Blind separation of mixture of independent sources through a quasi-maximum likelihood approach*, IEEE
   Transactions on Signal Processing 1997). First as they are; then with what else is known of the sources, and with a
   measure that tends to the mean size, which sees the last of the spikes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SWEEPS = 200  # of fixed-point steps, at most
SETTLED = 1e-7  # what a direction's cosine with the one before may lack of 1
SHARP, SHARPEST = 3.0, 30.0  # a of log cosh(a s) / a, where a typical value s is 1
STEP = 5e-3  # of Adam, falling along half a cosine


def whitening(signals: Tensor) -> Tensor:
    """The symmetric matrix (r, r) that makes mixtures (r, n) uncorrelated and of mean square 1."""
    values, vectors = torch.linalg.eigh(signals @ signals.T / signals.shape[1])
    return vectors / values.clamp_min(1e-12 * values[-1]).sqrt() @ vectors.T


def at_right_angles(whitened: Tensor, *, generator: torch.Generator) -> Tensor:
    """Orthonormal directions (r, r), one a row, along which whitened signals (r, n) are spiky."""
    rank, count = whitened.shape
    directions = _orthonormal(torch.randn(rank, rank, generator=generator).to(whitened))
    for _ in range(SWEEPS):
        slope = torch.tanh(SHARP * (directions @ whitened))
        bend = SHARP * (1 - slope.square()).mean(1, keepdim=True)
        before, directions = directions, _orthonormal(slope @ whitened.T / count - bend * directions)
        if float((1 - (before * directions).sum(1).abs()).max()) < SETTLED:
            break
    return directions


def _orthonormal(directions: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(directions, full_matrices=False)
    return left @ right


def apart(
    whitened: Tensor, directions: Tensor, *, independence: float, iterations: int, penalty: Callable[[Tensor], Tensor]
) -> Tensor:
    """Directions (r, r) of length 1, moved away from right angles to where signals are spikier.

    Args:
        independence: weight of the logarithm of their volume; as the likelihood has it 1, if values of their size had
            the density `exp(-size)`.
        iterations: half of them without the penalty.
        penalty: what speaks against directions of length 1 (r, r), one number.
    """
    ascent = directions.clone().requires_grad_()
    for share, held in ((iterations // 2, False), (iterations - iterations // 2, True)):
        optimiser = torch.optim.Adam([ascent], lr=STEP)
        for step in range(share):
            optimiser.param_groups[0]["lr"] = STEP * (0.01 + 0.99 * (1 + math.cos(math.pi * step / share)) / 2)
            unit = torch.nn.functional.normalize(ascent, dim=1)
            sharp = SHARP * (SHARPEST / SHARP) ** (step / share) if held else SHARP
            loss = spikes(unit @ whitened, sharp).sum() - independence * torch.linalg.slogdet(unit).logabsdet
            if held:
                loss = loss + penalty(unit)
            [ascent.grad] = torch.autograd.grad(loss, [ascent])
            optimiser.step()
    return torch.nn.functional.normalize(ascent.detach(), dim=1)


def spikes(values: Tensor, sharp: float = SHARP) -> Tensor:
    """The mean (r,) of log cosh(a s) / a over values (r, n) of mean square 1: the less, the spikier they are."""
    size = sharp * values.abs()
    return ((size + torch.log1p(torch.exp(-2 * size)) - math.log(2)) / sharp).mean(1)

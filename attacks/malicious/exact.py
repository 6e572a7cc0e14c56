"""Images out of rows of a gradient each of which may be of a single image: `dL/dW_k / dL/db_k`."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.base import NotApplicable, Reconstruction
from attacks.closed_form.base import Puzzle
from attacks.closed_form.certify import outside

ROUNDED = 256
"""Units in the last place of the largest bias's gradient, below which a row's is rounding."""

RANGE = 0.02
"""How far, in [0, 1] pixel units, the image of a row may leave the range of pixels: mixtures of several often do."""

SAME = 0.05
"""The largest distance of two rows' images, root mean square in normalised units, of which one is given."""

ALIKE = 1e-4
"""The largest distance of two that agree."""

GRID = 0.05
"""The largest distance, in steps of 1/255, of any pixel of an image that is one of 8 bits: no mixture is as near."""


def answer(puzzle: Puzzle, weight: Tensor, bias: Tensor, *, floor: float) -> Reconstruction:
    """The images that rows say, those first that several rows agree on.

    An image is certain if it is one of 8 bits a pixel, or if rows agree on it: of several images each row has another
    mixture.

    Args:
        weight: (K, C * H * W) float64, rows of the gradient of a first linear layer, or sums of them.
        bias: (K,) the same of its bias.
        floor: the largest number that rounding errors in `bias` are relative to.

    Raises:
        NotApplicable: no row says an image.
    """
    observation = puzzle.observation
    eps = torch.finfo(getattr(torch, observation.precision)).eps
    said = bias.abs() > ROUNDED * eps * floor
    found = (weight[said] / bias[said, None]).unflatten(1, observation.input_shape)
    within = outside(found, observation) <= RANGE
    images, sizes = found[within], bias[said][within].abs()
    if not len(images):
        raise NotApplicable("no unit of the changed layer says an image: none was active, or each for several")
    kept, votes = distinct(images.flatten(1), sizes)
    clear = _eight_bit(images[kept], puzzle)
    order = sorted(range(len(kept)), key=lambda i: (-(votes[i] > 1 or bool(clear[i])), -votes[i], i))
    order = order[: puzzle.images or len(order)]
    chosen = images[[kept[i] for i in order]]
    rows = weight[said]
    explained = torch.linalg.lstsq(chosen.flatten(1).T, rows.T).solution
    rest = (rows.T - chosen.flatten(1).T @ explained).norm() / rows.norm()
    return Reconstruction(
        images=chosen.to(next(iter(observation.update.values())).dtype),
        loss=float(rest),
        details={
            "certain": [votes[i] > 1 or bool(clear[i]) for i in order],
            "rows": int(said.sum()),
            "agreeing": [votes[i] for i in order],
        },
    )


def distinct(said: Tensor, sizes: Tensor) -> tuple[list[int], list[int]]:
    """Of rows (N, D) that say the same one alone, that with the largest size: which, and how many agree with each."""
    kept, votes = list[int](), list[int]()
    for at in sizes.argsort(descending=True).tolist():
        apart = (said[kept] - said[at]).square().mean(1).sqrt() if kept else said.new_full((1,), torch.inf)
        nearest = int(apart.argmin())
        if apart[nearest] > SAME:
            kept.append(at)
            votes.append(1)
        elif apart[nearest] <= ALIKE:
            votes[nearest] += 1
    return kept, votes


def _eight_bit(images: Tensor, puzzle: Puzzle) -> Tensor:
    """Whether each of the images (N, C, H, W) is within `GRID` of one of 8 bits: (N,)."""
    observation = puzzle.observation
    mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (observation.mean, observation.std))
    levels = (images * std + mean) * 255
    return (levels - levels.round()).abs().flatten(1).amax(1) <= GRID

"""A single image from a vision transformer's update, by one linear system: dropout does not enter it.

With token embeddings `e_i = W x_i + b + pos_i` of patches x_i, whatever follows (dropout, norms, attention, any loss),

    dL/dpos_i = G_i        dL/dW = sum_i G_i x_i^T = G^T X        dL/db = sum_i G_i = G^T 1

(that the positions' gradient is the tokens' is the observation of APRIL, Lu et al., CVPR 2022). G (N, D) is in the
update, so D linear equations determine the N patches: `X = lstsq(G^T, dL/dW)`. The same holds for every sum of updates
over the same image: several local steps, momentum, any scale. Of several steps one answer is certain at most, since a
step whose gradient is small may have seen another image.

How sure the answer is needs no truth. The D - N equations to spare leave a residual, whose size is the noise per
equation, of whatever origin (rounding, a defense, a second image); `noise * sqrt(diag((G G^T)^-1))` is then each
patch's expected error. The bias adds a column whose solution is known to be 1 everywhere, a second measure of it. A
patch whose expected error is above that of the mean image is left at the mean, and counted as undetermined.

Most photos are of 8 bits a channel. Where the nearest such image explains the update as well as the least squares
solution does, it is the answer, and what float32 had rounded is restored. It is tried only where the noise is so low
that rounding an image of more bits would leave a residual far above it: nothing is assumed about the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import NotApplicable, Reconstruction, register
from attacks.closed_form.base import ClosedForm, Puzzle
from attacks.closed_form.certify import outside
from attacks.closed_form.patches import PatchEmbedding, patch_embedding
from attacks.closed_form.tokens import Solution, solve
from attacks.observation import Observation

CERTAIN = 0.01
"""An image is certain up to this expected root mean square error, in [0, 1] pixels: 40 dB."""

GRID = 0.05
"""Pixels are tried as multiples of 1/255 below this expected error, in multiples: any other image then fails."""

UNEXPLAINED = 0.5
"""Above this share of noise the update is not that of one image through a plain patch embedding."""

SEVERAL = 0.05
"""The same where it may be made of several images, whose mixture leaves a residual as noise does, only larger."""


@register("patch_embedding")
@dataclass(kw_only=True, eq=False)
class PatchEmbeddingInversion(ClosedForm):
    """The one image of an update of a ViT with learned positions.

    Args:
        ridge: 0 is plain least squares, exact where the update is. For noisy updates, Tikhonov regularisation towards
            the mean image: `min |G^T X - dL/dW|^2 + (ridge * s)^2 |X|^2`, s the largest singular value of G; directions
            whose singular value is far below `ridge * s` are left at the mean instead of filled with noise. An image
            that was regularised is never certain.
    """

    strength: ClassVar[int] = 40

    ridge: float = 0.0

    def __post_init__(self) -> None:
        if self.ridge < 0:
            raise ValueError(f"ridge = {self.ridge} is negative")

    def solve(self, puzzle: Puzzle, *, seed: int) -> Reconstruction:
        observation = puzzle.observation
        if observation.batch_size is not None and observation.batch_size > 1:
            raise NotApplicable(
                f"a batch of {observation.batch_size}: the positions' gradient is the sum over its images"
            )
        embedding = patch_embedding(puzzle)
        tokens = embedding.of_patches(puzzle.gradient(embedding.positions))
        weight = puzzle.gradient(embedding.weight).flatten(1)
        bias = None if embedding.bias is None else puzzle.gradient(embedding.bias)
        if not weight.any():
            raise NotApplicable(f"the gradient of {embedding.weight} is zero, as below a head initialised with zeros")
        if not tokens.any():
            raise NotApplicable(f"the gradient of {embedding.positions} is zero: frozen positions")
        epsilon = torch.finfo(observation.update[embedding.weight].dtype).eps
        solution = solve(tokens, weight, bias, ridge=self.ridge, epsilon=epsilon)
        _explained(solution, several=puzzle.images != 1)
        return self._answer(puzzle, embedding, solution)

    def _answer(self, puzzle: Puzzle, embedding: PatchEmbedding, solution: Solution) -> Reconstruction:
        observation = puzzle.observation
        determined = solution.errors < 1  # in units of the data's deviation: the mean image's error
        if not determined.any():
            raise NotApplicable("the update is too noisy: no patch is expected to be better than the mean image's")
        image = embedding.image(solution.rows * determined[:, None], observation.input_shape)
        rounded = _eight_bit(image, observation)
        fine = bool((solution.errors * max(observation.std) * 255 < GRID).all())
        eight_bit = self.ridge == 0 and fine and solution.explained_by(embedding.patches(rounded))
        image = rounded if eight_bit else image
        errors = solution.errors.clamp(max=1)[:, None].expand_as(solution.rows)
        std = image.new_tensor(observation.std).view(-1, 1, 1)
        expected = float((embedding.image(errors, observation.input_shape) * std).square().mean().sqrt())
        beyond = float(outside(image, observation))
        missing = int((~determined).sum())
        certain = self.ridge == 0 and missing == 0 and expected <= CERTAIN and beyond <= 6 * CERTAIN
        others = (
            puzzle.steps - 1
        )  # their images are the same, or their gradients too small to show: nothing tells which
        return Reconstruction(
            images=image.repeat(1 + others, 1, 1, 1),
            loss=solution.residual,
            details={
                "certain": [certain] + [False] * others,
                "patches": len(determined),
                "undetermined": missing,
                "eight_bit": eight_bit,
                "condition": solution.condition,
                "expected_error": expected,
                "outside": beyond,
            },
        )


def _eight_bit(image: Tensor, observation: Observation) -> Tensor:
    """The nearest image (1, C, H, W) whose pixels are k / 255."""
    mean, std = (image.new_tensor(values).view(-1, 1, 1) for values in (observation.mean, observation.std))
    return (((image * std + mean).clamp(0, 1) * 255).round() / 255 - mean) / std


def _explained(solution: Solution, *, several: bool) -> None:
    """Raise NotApplicable if the update is not one image's. `several`: it may be made of more than one."""
    if solution.noise == float("inf") and (several or solution.errors.isinf().all()):
        raise NotApplicable("no equation is left to check whether the update is that of one image")
    if several and solution.noise > SEVERAL:
        raise NotApplicable(
            "the update is of different images in its batch or steps, or too noisy to tell: "
            f"{solution.noise:.0%} of it is not explained by one image"
        )
    if solution.noise != float("inf") and solution.noise > UNEXPLAINED:
        raise NotApplicable(
            f"the update is not that of one image through a plain patch embedding: {solution.noise:.0%} of it is not "
            "explained"
        )

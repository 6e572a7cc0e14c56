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

A noisy update is solved with a ridge instead, which shrinks the image to the mean where the noise is larger than what
there is to see. Nothing is tuned: how well each equation is foretold from the others says how much.

Noise and a second image look alike in the residual, but not in the bias: `dL/db = G^T 1` holds for any number of
images, so what it is off by is noise alone. The noise of G enters it as it enters the equation of a pixel that is 1.
Where the residual is no larger than that, it is taken for noise; `details["assumed"]` says so.

Where the entries themselves have been rounded to a half precision, the error of each is known up to its sign: a share
of its size. The equations then count by the inverse of theirs.

Most photos are of 8 bits a channel. Where the nearest such image explains the update as well as the least squares
solution does, it is the answer, and what float32 had rounded is restored. It is tried only where the noise is so low
that rounding an image of more bits would leave a residual far above it: nothing is assumed about the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import NotApplicable, Reconstruction, register
from attacks.closed_form.base import ClosedForm, Puzzle
from attacks.closed_form.certify import in_range, outside
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

LOUDER = 0.8
"""More is noise all the same if the bias's equations are noisy: a pixel's by this factor of theirs, since least squares
explain some, and pixels are about 1 in size. Where one image is granted, by the size of the brightest pixel."""

ALIKE = 0.9
"""Above this cosine what the bias's equations are off by is a multiple of the weights: weight decay, not noise."""

FLATTENED = 1e-3
"""No equation's error is taken to be below the root of this share of the mean square: other errors remain."""

EQUAL = 0.1
"""Entries whose sizes vary less than this, relative to their mean, are signs (Adam's first step), not a gradient."""


@register("patch_embedding")
@dataclass(kw_only=True, eq=False)
class PatchEmbeddingInversion(ClosedForm):
    """The one image of an update of a ViT with learned positions.

    Args:
        ridge: 0 is plain least squares, exact where the update is. For noisy updates, Tikhonov regularisation towards
            the mean image: `min |G^T X - dL/dW|^2 + (ridge * s)^2 |X|^2`, s the largest singular value of G; directions
            whose singular value is far below `ridge * s` are left at the mean instead of filled with noise. An image
            that was regularised is never certain. None: 0 where that is exact enough to be certain, else a ridge by
            cross-validation, and an image that is clipped to the range of pixels.
    """

    paper: ClassVar[str] = "with APRIL's observation: Lu et al., CVPR 2022 (arXiv 2112.14087)"
    exploits: ClassVar[str] = "one image; a ViT with learned positions"
    under_dropout: ClassVar[str] = "the same, or more exact: nothing that is drawn enters the equations"

    strength: ClassVar[int] = 40

    ridge: float | None = None

    def __post_init__(self) -> None:
        if self.ridge is not None:
            self._weights("ridge")

    def solve(self, puzzle: Puzzle, *, seed: int) -> Reconstruction:
        embedding, tokens, weight, bias = _system(puzzle)
        epsilon = torch.finfo(puzzle.observation.update[embedding.weight].dtype).eps
        solution = solve(tokens, weight, bias, ridge=self.ridge or 0.0, epsilon=epsilon)
        assumed = _assumed(puzzle, embedding, solution, bias)
        if self.ridge is None and solution.noise < math.inf and not _fine(solution, puzzle.observation):
            solution = solve(tokens, weight, bias, ridge=solution.best_ridge, epsilon=epsilon)
        return self._answer(puzzle, embedding, solution, assumed)

    def unexplained(self, puzzle: Puzzle, images: Tensor) -> Tensor:
        embedding, tokens, weight, _ = _system(puzzle)
        epsilon = torch.finfo(puzzle.observation.update[embedding.weight].dtype).eps
        solution = solve(tokens, weight, epsilon=epsilon)
        return torch.tensor([solution.unexplained(embedding.patches(image.to(tokens))) for image in images])

    def _answer(
        self, puzzle: Puzzle, embedding: PatchEmbedding, solution: Solution, assumed: str | None
    ) -> Reconstruction:
        observation = puzzle.observation
        determined = solution.errors < 1  # in units of the data's deviation: the mean image's error
        if not determined.any():
            assumed = "the update is too noisy: no patch is expected to be better than the mean image's, which is given"
        image = embedding.image(solution.rows * determined[:, None], observation.input_shape)
        rounded = _eight_bit(image, observation)
        fine = bool((solution.errors * max(observation.std) * 255 < GRID).all())
        eight_bit = solution.ridge == 0 and fine and solution.explained_by(embedding.patches(rounded))
        image = rounded if eight_bit else image
        errors = solution.errors.clamp(max=1)[:, None].expand_as(solution.rows)
        std = image.new_tensor(observation.std).view(-1, 1, 1)
        expected = float((embedding.image(errors, observation.input_shape) * std).square().mean().sqrt())
        beyond = float(outside(image, observation))
        missing = int((~determined).sum())
        certain = solution.ridge == 0 and missing == 0 and expected <= CERTAIN and beyond <= 6 * CERTAIN
        others = puzzle.steps - 1  # the same images, or their gradients too small to show: nothing tells which
        if self.ridge is None and solution.ridge > 0:
            image = in_range(image, observation)
        return Reconstruction(
            images=image.repeat(1 + others, 1, 1, 1),
            loss=solution.residual,
            details={
                "certain": [certain] + [False] * others,
                "determined": [True] + [False] * others,
                "tolerated": solution.tolerated,
                "noise": solution.noise if solution.noise < math.inf else None,
                "assumed": assumed,
                "ridge": solution.ridge,
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


def _system(puzzle: Puzzle) -> tuple[PatchEmbedding, Tensor, Tensor, Tensor | None]:
    """The embedding, G (N, D), dL/dW (D, P) and dL/db (D,), which may lack."""
    size = puzzle.observation.batch_size
    if size is not None and size > 1:
        raise NotApplicable(f"a batch of {size}: the positions' gradient is the sum over its images")
    embedding = patch_embedding(puzzle)
    tokens = embedding.of_patches(puzzle.gradient(embedding.positions))
    weight = puzzle.gradient(embedding.weight).flatten(1)
    bias = None if embedding.bias is None else puzzle.gradient(embedding.bias)
    if not weight.any():
        raise NotApplicable(f"the gradient of {embedding.weight} is zero, as below a head initialised with zeros")
    if not tokens.any():
        raise NotApplicable(f"the gradient of {embedding.positions} is zero: frozen positions")
    precision = _precision(puzzle, embedding)
    return embedding, tokens * precision, weight * precision[:, None], None if bias is None else bias * precision


def _precision(puzzle: Puzzle, embedding: PatchEmbedding) -> Tensor:
    """By what factor each of the D equations counts: (D,), 1 on average.

    An equation's error is that of its entries in dL/dW, and of those in G times the pixels, about 1 in size. Where not
    the update but the weights were rounded, as those of a weight delta are, all equations are alike: then 1, as for
    float32, whose other errors are as large.
    """
    observation = puzzle.observation
    names = (embedding.weight, embedding.positions)
    sent = [observation.update[name] for name in names]
    rounded = _halved(sent) and not (
        observation.kind == "delta" and _halved([observation.state[name] + observation.update[name] for name in names])
    )
    weight, positions = (value.double().square() for value in sent)
    variance = weight.flatten(1).mean(1) + embedding.of_patches(positions).sum(0)
    factor = (variance + FLATTENED * variance.mean()).rsqrt() if rounded else torch.ones_like(variance)
    return factor / factor.mean()


def _halved(values: list[Tensor]) -> bool:
    """Whether all of these are numbers of one of the half precisions."""
    return any(all(torch.equal(v.to(half).to(v), v) for v in values) for half in (torch.bfloat16, torch.float16))


def _fine(solution: Solution, observation: Observation) -> bool:
    """Whether least squares give the patches of which anything is in the update as exactly as a certain image's."""
    errors = solution.errors[solution.errors.isfinite()]
    std = sum(value**2 for value in observation.std) / len(observation.std)
    return float(errors.square().mean()) * std <= CERTAIN**2


def _assumed(puzzle: Puzzle, embedding: PatchEmbedding, solution: Solution, bias: Tensor | None) -> str | None:
    """What is taken for granted of a residual above what one image alone leaves; None where it is not above.

    Raises:
        NotApplicable: the update is not one image's.
    """
    several, noise = puzzle.images != 1, solution.noise
    if noise == math.inf:
        if several or solution.errors.isinf().all():
            raise NotApplicable("no equation is left to check whether the update is that of one image")
        return None
    if noise <= (SEVERAL if several else UNEXPLAINED):
        return None
    what = "of different images in its batch or steps, or too noisy to tell" if several else "not that of one image"
    where = "" if several else " through a plain patch embedding"
    refused = f"the update is {what}{where}: {noise:.0%} of it is not explained" + " by one image" * several
    if bias is None or embedding.bias is None:
        raise NotApplicable(refused)
    off = bias - solution.tokens.sum(0)  # of as many images as there are
    observation = puzzle.observation
    brightest = max(max(m, 1 - m) / s for m, s in zip(observation.mean, observation.std))
    louder = LOUDER if several else brightest
    if solution.deviation > louder * float(off.square().mean().sqrt()):
        raise NotApplicable(refused)
    decay = puzzle.weight(embedding.bias) - embedding.of_patches(puzzle.weight(embedding.positions)).sum(0)
    decay = decay * _precision(puzzle, embedding)
    if float(torch.cosine_similarity(off, decay, dim=0).abs()) > ALIKE:
        raise NotApplicable(f"{refused}, but the weights stand in it: weight decay that is not known")
    sizes = solution.weight.abs()
    if float(sizes.std() / sizes.mean()) < EQUAL:
        raise NotApplicable(f"{refused}, and all its entries are alike in size: signs, or a step of Adam")
    return f"noise: {noise:.0%} of the update is not explained by one image, and the bias shows as much for any number"

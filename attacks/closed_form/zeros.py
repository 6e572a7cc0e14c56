"""Whole batches through a linear first layer, by the zeros that dropout or ReLU leaves: what follows from them.

The first layer's gradients are dL/dW = D^T X and dL/db = D^T 1, with D (B, m) the back-propagated deltas of B images
and X (B, inputs) the images. The column space of [dL/dW, dL/db] is the span of the rows of D: it is known, the rows are
not. But a dropped unit makes an exact zero in D, and so does a silent ReLU. So the rows are *sparse vectors of a known
B-dimensional space*, and such vectors can be found: no mask is guessed and nothing downstream matters. With D, X
follows from a linear system, and the column of dL/db, which must come out as 1, gives the scales.

What is known of the answer without the truth. Row b of X is what is left of the update once the *other* deltas are
projected out. So it is wrong by as much as they are: one spurious delta of large share spoils every image, one of small
share only those that are smaller still. The sum of these shares and the rounding bound each image's error.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import NotApplicable, Reconstruction
from attacks.closed_form.base import ClosedForm, Puzzle
from attacks.closed_form.certify import filling, in_range, outside
from attacks.closed_form.first_layer import FirstLinear, first_linear, random_input
from attacks.closed_form.length import mismatch
from attacks.closed_form.low_rank import LowRank
from attacks.closed_form.masks import read_masks
from attacks.closed_form.sparsity import Directions
from attacks.seeds import generator_for

CERTAIN = 1e-3  # bound on the root mean squared error, in pixels of [0, 1], of an image called certain: 60 dB
SAFETY = 10.0  # how much larger than estimated an error may be
EXACT = 1e-3  # how far the simulated update of a single image may be off
RANGE = 1e-2  # a certain image leaves the range of pixels by no more


@dataclass(kw_only=True, eq=False)
class ByZeros(ClosedForm):
    """Base of the attacks that look for the sparse vectors of the space that a first layer's gradient spans.

    With a bias the images are exact. Without one only their directions are determined: the scale is chosen such that an
    image fills the range of pixels, and no image is called certain. Several local steps are one larger batch.

    The layer's weight and bias are taken to be scaled alike, as by a clipping of the whole update; where each was
    clipped by itself, the contrast of the images is wrong, which only the update of a single image shows.

    A sum over clients is one larger batch as well, of all their images (secure aggregation), where they weigh alike;
    `Observation.batch_size` then counts the images of all of them.

    An image whose gradient is below the rounding of the update leaves no trace; `details["below_floor"]` counts them,
    and the answer holds the mean image in their place.
    """

    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"aggregation": ("individual", "sum_of_*")}
    adapts: ClassVar[Mapping[str, str | None]] = {**ClosedForm.adapts, "secure_aggregation": None}

    @abstractmethod
    def directions(self, space: LowRank, generator: torch.Generator) -> Directions:
        """Sparse vectors of this space, and which of them are sure. Raises NotApplicable with the reason."""

    def solve(self, puzzle: Puzzle, *, seed: int) -> Reconstruction:
        observation = puzzle.observation
        first = first_linear(puzzle)
        generator = generator_for(seed, self.name, round=observation.round, client=observation.client)
        space = first.space(puzzle, generator)
        directions = self.directions(space, generator)
        sure = int(directions.sure.sum())
        if sure == 0 and not (space.rank == 1 and puzzle.images == 1):
            raise NotApplicable(f"no zeros of dropout or ReLU stand out in the {space.rank} dimensions of the update")
        directions = _complete(directions, space.rank)
        inverse = torch.linalg.inv(directions.weights)
        rows = inverse * space.values @ space.right.T
        error = _error(space, directions, inverse, rows)
        if first.bias is not None:
            scale, slack = rows[:, -1], space.column_noise[-1] * inverse.norm(dim=1)
            rows = rows[:, :-1]
            error = error + SAFETY * slack / scale.abs() * rows.square().mean(1).sqrt()
        else:
            activity = (space.left @ directions.weights).abs().T @ puzzle.weight(first.weight)
            scale = filling(first.image(rows, observation.input_shape), activity, observation)
        visible = scale.abs() > 0
        images = first.image(rows / torch.where(visible, scale, 1)[:, None], observation.input_shape)
        determined = visible & directions.sure & (error < scale.abs())  # better than the mean image
        deviation = sum(observation.std) / len(observation.std)
        certain = visible & (deviation * error < CERTAIN * scale.abs()) & (outside(images, observation) <= RANGE)
        doubt = _doubt(puzzle, first, images)
        if doubt is not None:
            certain = torch.zeros_like(certain)
            if first.bias is not None:  # without one directions are right, and the scales fair
                determined = torch.zeros_like(determined)
        missing = max(0, (puzzle.images or 0) - len(images))
        images = torch.cat([in_range(images, observation), images.new_zeros(missing, *images.shape[1:])])
        details = {
            "certain": certain.tolist() + [False] * missing,
            "determined": determined.tolist() + [False] * missing,
            "tolerated": space.residual,
            "rank": space.rank,
            "sure_directions": sure,
            "below_floor": missing,
            "fewest_zeros": int(directions.zeros[directions.sure].min()) if sure else 0,
        }
        if doubt is not None:
            details["reason"] = doubt
        return Reconstruction(images=images, loss=space.residual, details=details)

    def unexplained(self, puzzle: Puzzle, images: Tensor) -> Tensor:
        """How far an image is from the space that the rows of dL/dW span, together with the noise of these.

        Every mixture of the client's images lies in that space: it tells an image from what is none of theirs, and
        where the closed form's images are determined they are no mixtures.
        """
        observation, first = puzzle.observation, first_linear(puzzle)
        generator = generator_for(0, self.name, round=observation.round, client=observation.client)
        space = first.space(puzzle, generator)
        return space.beyond(images.flatten(1))


def _doubt(puzzle: Puzzle, first: FirstLinear, images: Tensor) -> str | None:
    """Why no image of this model is certain, whatever the zeros say; None if there is no such reason."""
    if first.bias is None:
        return "the first layer has no bias: the images' directions are determined, their scales are not"
    if random_input(puzzle, first):
        return "something random changes the images before the first layer: it stays in them"
    if puzzle.images == 1:
        off = mismatch(puzzle, images, read_masks(puzzle.model, puzzle.observation))
        if off is not None and off > EXACT:
            return f"a simulation of the update is off by {off:.1e}: weight and bias may be scaled differently"
    return None


def _complete(found: Directions, rank: int) -> Directions:
    """The sure directions, and, up to the rank, some that are not, at right angles to them: these keep no more of the
    update than what the sure ones leave in least squares, while an unsure one may be a mixture of many of them."""
    found = found.pick(found.sure.nonzero()[:, 0].tolist())
    lacking = rank - found.weights.shape[1]
    if lacking == 0:
        return found
    weights = torch.linalg.qr(found.weights, mode="complete").Q[:, rank - lacking :]
    none = found.zeros.new_zeros(lacking)
    return found + Directions(weights, none, none.to(weights), none.bool())


def _error(space: LowRank, directions: Directions, inverse: Tensor, rows: Tensor) -> Tensor:
    """A bound on the root mean squared error of each of the rows (r, inputs), which are not yet scaled.

    Three parts: the rounding of the update itself; of the other deltas the sure ones, each wrong by its rounding; and
    those that are not sure, which may be mixed with this one by as much as their own share.
    """
    noise = (space.left.square().T @ space.noise.square()).sqrt()
    rounding = (inverse * noise).norm(dim=1)
    spread = (directions.weights / space.values[:, None]).norm(dim=0) * space.noise.square().mean().sqrt()
    spread = spread * directions.excess.square() * (len(space.left) / directions.zeros.clamp_min(1)).sqrt()
    slip = torch.where(directions.sure, spread, 1.0) * rows.square().mean(1).sqrt()
    return SAFETY * (rounding.square() + slip.square().sum() - slip.square()).sqrt()

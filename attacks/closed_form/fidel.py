"""The oldest closed form for batches: Enthoven and Al-Ars, *Fidel: Reconstructing private training samples from weight
updates in federated learning*, 2021 (arXiv 2101.00159); that a unit's quotient is its input, Phong et al., IEEE TIFS
2018.

Of each unit j of a first linear layer `dW_j / db_j = sum_b D_bj x_b / sum_b D_bj`: a weighted mean of the images, and
where one image alone drives the unit, as others are silent there under ReLU or were dropped, that image.

Which units these are the paper leaves to the eye. Here it is told without the truth, as far as it can be: an image lies
between black and white, which of mixtures only those do whose weights have one sign; and an image that drives several
units alone is the quotient of all of them, while two units mix in the same way only where their deltas are
proportional. That does happen (two classes and one hidden layer), so that no image of a batch is called certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import NotApplicable, Reconstruction, register
from attacks.closed_form.base import ClosedForm, Puzzle
from attacks.closed_form.certify import in_range, outside
from attacks.closed_form.first_layer import FirstLinear, first_linear
from attacks.seeds import generator_for

AGREE = 1e-3  # root mean squared difference of two quotients that are one image, in pixels of [0, 1]
RANGE = 1e-2  # how far an image may leave the range of pixels, rounding included


@register("fidel")
@dataclass(kw_only=True, eq=False)
class Fidel(ClosedForm):
    """The quotients `dW_j / db_j` of a first linear layer's units: each image that drives a unit alone, exactly.

    Of the quotients that lie between black and white those that most units share come first; of the others those of the
    largest `|db_j|`, which rounding harms least. Places that are left hold the mean image. Needs the layer's bias. Kept
    as the baseline that it is: `first_linear` and `sparse_dictionary` have all that it has, and say what is certain.
    """

    paper: ClassVar[str] = "Enthoven and Al-Ars, 2021 (arXiv 2101.00159)"
    exploits: ClassVar[str] = "a linear first layer with a bias; units that one image alone drives"
    under_dropout: ClassVar[str] = "better for batches: fewer images drive a unit"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"aggregation": ("individual", "sum_of_*")}
    adapts: ClassVar[Mapping[str, str | None]] = {**ClosedForm.adapts, "secure_aggregation": None}
    strength: ClassVar[int] = 1

    def solve(self, puzzle: Puzzle, *, seed: int) -> Reconstruction:
        observation, first = puzzle.observation, first_linear(puzzle)
        if first.bias is None:
            raise NotApplicable(f"a quotient needs the gradient of the bias beside that of {first.weight}")
        weight, bias = puzzle.gradient(first.weight), puzzle.gradient(first.bias)
        reached = bias.abs().argsort(descending=True)
        reached = reached[bias[reached] != 0]
        quotients = first.image(weight[reached] / bias[reached, None], observation.input_shape)
        quotients = quotients[outside(quotients, observation) <= RANGE]
        if len(quotients) == 0:
            raise NotApplicable("no unit's quotient lies between black and white: none is driven by one image alone")
        deviation = quotients.new_tensor(observation.std).view(-1, 1, 1)
        leaders, shared = _groups((quotients * deviation).flatten(1))
        count = puzzle.images or self._count(puzzle, first, shared)
        best = shared.argsort(descending=True, stable=True)[:count]
        images = in_range(quotients[leaders[best]], observation)
        missing = count - len(images)
        details = {
            "certain": [False] * count,
            "determined": [False] * count,
            "units": shared[best].tolist() + [0] * missing,
            "in_range": len(quotients),
        }
        loss = _left(torch.cat([weight, bias[:, None]], 1), images.flatten(1))
        images = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
        return Reconstruction(images=images, loss=loss, details={**details, "tolerated": loss})

    def _count(self, puzzle: Puzzle, first: FirstLinear, shared: Tensor) -> int:
        """How many images to answer where nobody says how many there are: mixtures agree as well, by chance, but of
        images that drive a unit alone no more are independent than the gradient has rank."""
        observation = puzzle.observation
        generator = generator_for(0, self.name, round=observation.round, client=observation.client)
        return max(1, min(int((shared > 1).sum()), first.space(puzzle, generator).rank))

    def unexplained(self, puzzle: Puzzle, images: Tensor) -> Tensor:
        """How far an image is from the space that the rows of dL/dW span, together with the noise of these."""
        generator = generator_for(0, self.name, round=puzzle.observation.round, client=puzzle.observation.client)
        return first_linear(puzzle).space(puzzle, generator).beyond(images.flatten(1))


def _groups(quotients: Tensor) -> tuple[Tensor, Tensor]:
    """Of quotients (k, n), best first: what leads each group of those that agree, and how many they are."""
    apart = torch.cdist(quotients, quotients) / quotients.shape[1] ** 0.5
    free = torch.ones(len(quotients), dtype=torch.bool, device=quotients.device)
    leaders, shared = [], []
    for index in range(len(quotients)):
        if free[index]:
            alike = free & (apart[index] <= AGREE)
            alike[index] = True
            free &= ~alike
            leaders.append(index)
            shared.append(int(alike.sum()))
    return torch.tensor(leaders, device=quotients.device), torch.tensor(shared, device=quotients.device)


def _left(gradient: Tensor, images: Tensor) -> float:
    """The share of [dL/dW, dL/db] (units, n + 1) that no mixture of these images (B, n) is."""
    basis = torch.linalg.qr(torch.cat([images, images.new_ones(len(images), 1)], 1).T).Q
    return float((gradient - gradient @ basis @ basis.T).norm() / gradient.norm())

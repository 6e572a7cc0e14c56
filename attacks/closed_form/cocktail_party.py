"""Whole batches through a linear first layer, by what images look like: Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi,
Lee, *Cocktail Party Attack: Breaking Aggregation-Based Privacy in Federated Learning Using Independent Component
Analysis*, ICML 2023 (arXiv 2209.05578).

The first layer's gradients are dL/dW = D^T X and dL/db = D^T 1, with D (B, m) the back-propagated deltas of B images
and X (B, inputs) the images: every row is a mixture of the images, as a microphone at a party hears a mixture of
voices. Independent component analysis finds the voices (`components`). No zeros of D are needed, so that an activation
may be smooth and nothing dropped (compare `sparse_dictionary`, which is exact where there are zeros, and knows it).

What differs from the paper:

- *What is independent.* Images are not: all are dark at the border, or bright at the top. Their edges are, the
  differences of neighbouring pixels, and these are far spikier than pixels. The paper's term of total variation is
  in this: it is the mean size of the edges. `signal="pixels"` takes the pixels less their mean, as the paper.
- *How components are held apart*: by the volume that they span in place of `exp(T |cos|)` of each pair.
- *Sign, length and mean.* The paper leaves sign and scale to the eye. Here dL/db says all three: it is mixed as a pixel
  would be that is 1 in every image. Besides, a component that is an image lies between black and white.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import NotApplicable, Reconstruction, register
from attacks.closed_form.base import ClosedForm, Puzzle
from attacks.closed_form.certify import ends, filling, in_range, outside
from attacks.closed_form.components import apart, at_right_angles, spikes, whitening
from attacks.closed_form.first_layer import first_linear
from attacks.seeds import generator_for

SIGNALS = ("edges", "pixels")
MOST = 20_000  # values of a signal that are looked at: those of large images tell no more


@register("cocktail_party")
@dataclass(kw_only=True, eq=False)
class CocktailParty(ClosedForm):
    """Batches through a linear first layer, by independent component analysis: edges of images are few and far between,
    those of mixtures are not.

    Its images are estimates, and none is called certain: what mixtures look like is a matter of statistics. With a bias
    sign, contrast and brightness follow from its gradient; without one an image fills the range of pixels, at the sign
    at which the layer is active, and its brightness is a guess. Several local steps are one larger batch, and a sum
    over clients too, as for `sparse_dictionary`.

    Args:
        signal: what is taken to be independent: `edges`, the differences of neighbouring pixels, or `pixels`.
        independence: weight of the volume that holds the components apart.
        iterations: gradient steps away from components at right angles.
    """

    paper: ClassVar[str] = "Kariyappa et al., ICML 2023 (arXiv 2209.05578), of edges instead of pixels"
    exploits: ClassVar[str] = "a linear first layer, wider than the batch; with a bias brightness and contrast too"
    under_dropout: ClassVar[str] = "the same"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"aggregation": ("individual", "sum_of_*")}
    adapts: ClassVar[Mapping[str, str | None]] = {**ClosedForm.adapts, "secure_aggregation": None}
    strength: ClassVar[int] = 5  # it assumes something of the images

    signal: str = "edges"
    independence: float = 0.3
    iterations: int = 600

    def __post_init__(self) -> None:
        self._whole("iterations")
        self._weights("independence")
        if self.signal not in SIGNALS:
            raise ValueError(f"{self.name}: signal = {self.signal!r} is neither {' nor '.join(map(repr, SIGNALS))}")

    def solve(self, puzzle: Puzzle, *, seed: int) -> Reconstruction:
        observation, first = puzzle.observation, first_linear(puzzle)
        generator = generator_for(seed, self.name, round=observation.round, client=observation.client)
        space = first.space(puzzle, generator)
        mixed, one = space.right.T, None
        if first.bias is not None:
            mixed, one = mixed[:, :-1], mixed[:, -1]
        pixels = _pixels(mixed, one, puzzle)
        heard = self._heard(first.image(pixels, observation.input_shape))
        white = whitening(heard)
        # the search is as good in single precision, at half the time; its answer is a mixture in double
        whitened = (white @ _some(heard, generator)).float()
        inside = _inside((white @ _some(pixels, generator)).float(), None if one is None else (white @ one).float())
        directions = at_right_angles(whitened, generator=generator)
        directions = apart(
            whitened, directions, independence=self.independence, iterations=self.iterations, penalty=inside
        )
        weights = directions.to(white) @ white
        rows = weights @ mixed
        if one is not None:
            scale = weights @ one
        else:
            deltas = torch.linalg.pinv(weights).T @ (space.values[:, None] * space.left.T)
            activity = deltas.abs() @ puzzle.weight(first.weight)
            scale = filling(first.image(rows, observation.input_shape), activity, observation)
        images = first.image(rows / torch.where(scale == 0, 1, scale)[:, None], observation.input_shape)
        missing = max(0, (puzzle.images or 0) - len(images))
        details = {
            "certain": [False] * (len(images) + missing),
            "determined": [False] * (len(images) + missing),
            "tolerated": space.residual,
            "rank": space.rank,
            "below_floor": missing,
            # of each image, what an attacker can tell an image from a mixture by
            "spikes": spikes(directions @ whitened).tolist(),
            "beyond_range": outside(images, observation).tolist(),
        }
        images = torch.cat([in_range(images, observation), images.new_zeros(missing, *images.shape[1:])])
        return Reconstruction(images=images, loss=space.residual, iterations=self.iterations, details=details)

    def _heard(self, mixed: Tensor) -> Tensor:
        """The signals (r, n) of mixed images (r, C, H, W) in which the images are independent."""
        if self.signal == "pixels":
            return (mixed - mixed.flatten(1).mean(1)[:, None, None, None]).flatten(1)
        edges = torch.cat([mixed.diff(dim=-1).flatten(1), mixed.diff(dim=-2).flatten(1)], 1)
        if edges.shape[1] < len(mixed):
            raise NotApplicable(f"{len(mixed)} images of {mixed[0].numel()} pixels: too few edges to tell them apart")
        return edges

    def unexplained(self, puzzle: Puzzle, images: Tensor) -> Tensor:
        """How far an image is from the space that the rows of dL/dW span, together with the noise of these."""
        generator = generator_for(0, self.name, round=puzzle.observation.round, client=puzzle.observation.client)
        return first_linear(puzzle).space(puzzle, generator).beyond(images.flatten(1))


def _some(signals: Tensor, generator: torch.Generator) -> Tensor:
    """Signals (r, n) at no more than so many places, drawn where there are more."""
    if signals.shape[1] <= MOST:
        return signals
    return signals[:, torch.randperm(signals.shape[1], generator=generator)[:MOST].to(signals.device)]


def _pixels(mixed: Tensor, one: Tensor | None, puzzle: Puzzle) -> Tensor:
    """Mixtures (r, inputs) of normalised images as those of the same images in [0, 1]; without the mixture of a 1, of
    images that lack their mean."""
    low, high = (end.flatten().to(mixed) for end in ends(puzzle.observation))
    return (mixed if one is None else mixed - one[:, None] * low) / (high - low)


def _inside(pixels: Tensor, one: Tensor | None) -> Callable[[Tensor], Tensor]:
    """How far components are from the range of pixels, as a penalty of directions.

    Args:
        pixels: (r, inputs) whitened mixtures of images in [0, 1].
        one: (r,) the whitened mixture of a 1; None: nothing is known of the length of a component.
    """

    def penalty(directions: Tensor) -> Tensor:
        if one is None:
            return directions.new_zeros(())
        length = (directions @ one)[:, None]
        values, length = directions @ pixels * length.sign(), length.abs()
        return (torch.relu(-values) + torch.relu(values - length)).mean(1).sum()

    return penalty

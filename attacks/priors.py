"""What an attacker believes about a batch before it looks at the update: penalties added to the matching loss.

A prior maps a guess (see `attacks.unknowns`) of N problems, and facts, to N penalties.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import vmap

from attacks.facts import Facts
from attacks.observation import Observation
from attacks.unknowns import Guess, noise_of
from defenses.client.site import Site


class Prior(ABC):
    """Penalties (N,) of N problems' guesses.

    Attributes:
        asks: the layers, by module path, whose inputs it has to be told. Evaluators collect them while they replay the
            clients' rounds, so that such a prior costs no forward pass of its own.
    """

    asks: tuple[str, ...] = ()

    def take(self, observation: Observation) -> dict[str, Tensor]:
        """What it has to know of a victim, by name, without the leading N; it is told so in `Facts.taken`.

        Raises:
            NotApplicable: the observation does not say it.
        """
        return {}

    @abstractmethod
    def __call__(self, guess: Guess, facts: Facts) -> Tensor:
        """The penalty of each problem (N,), weight included."""


@dataclass(frozen=True)
class TotalVariation(Prior):
    """Images are smooth: the mean absolute difference of neighbouring pixels, down and across.

    Shape:
        guess["images"]: (N, B, C, H, W).
    """

    weight: float

    def __call__(self, guess: Guess, facts: Facts) -> Tensor:
        images = guess["images"]
        down, across = images.diff(dim=-2), images.diff(dim=-1)
        per_problem = sum(d.abs().flatten(1).mean(1) for d in (down, across) if d.numel())
        return self.weight * (per_problem + images.new_zeros(len(images)))


@dataclass(frozen=True)
class Norm(Prior):
    """Images are not far from the mean: the mean of their L2 norms, in normalised units.

    Shape:
        guess["images"]: (N, B, C, H, W).
    """

    weight: float

    def __call__(self, guess: Guess, facts: Facts) -> Tensor:
        return self.weight * torch.linalg.vector_norm(guess["images"].flatten(2), dim=2).mean(1)


@dataclass(frozen=True)
class GroupConsistency(Prior):
    """The restarts of one victim agree: the L2 distance of each from the mean of those that still move (Yin et al.,
    GradInversion, CVPR 2021; there each is first registered to the mean, pixel by pixel, which is left out here).

    The mean is a target, held fixed: no restart is moved for another's sake. One alone agrees with itself.

    Shape:
        guess["images"]: (N, B, C, H, W).
    """

    weight: float

    def __call__(self, guess: Guess, facts: Facts) -> Tensor:
        assert facts.restarts is not None
        images, restarts = guess["images"].flatten(1), facts.restarts
        moving = restarts.running & images.isfinite().all(1)
        theirs = torch.where(moving[:, None], images, 0).detach()
        # each in its own place: which others there are, and in which order they stand, can change no sum
        places = theirs.new_zeros(restarts.total, theirs.shape[1]).index_copy(0, restarts.number, theirs)
        counted = theirs.new_zeros(restarts.total).index_copy(0, restarts.number, moving.to(theirs))
        count = counted.view(-1, restarts.each).sum(1).clamp_min(1)
        mean = places.view(-1, restarts.each, theirs.shape[1]).sum(1) / count[:, None]
        return self.weight * torch.linalg.vector_norm(images - mean[restarts.number // restarts.each], dim=1)


@dataclass(frozen=True)
class SameImages(Prior):
    """Every pass over a client's examples has the same images, in whichever order (Dimitrov et al., TMLR 2022).

    Each pass is compared with the next, and the last with the first, by a function that no order changes: `mean`, the
    mean square of the difference of the passes' mean images, which is a choice of that paper's; or `nearest`, the mean
    square of the difference of each image from the nearest one of the same label.

    Args:
        passes: how many there are.
        by: as above.

    Shape:
        guess["images"]: (N, passes * B, C, H, W), one pass after the other.
    """

    weight: float
    passes: int
    by: Literal["mean", "nearest"] = "nearest"

    def __call__(self, guess: Guess, facts: Facts) -> Tensor:
        if self.passes == 1:
            return guess["images"].new_zeros(len(guess["images"]))
        images = guess["images"].unflatten(1, (self.passes, -1)).flatten(3)
        following = images.roll(-1, dims=1)
        if self.by == "mean":
            return self.weight * (images.mean(2) - following.mean(2)).square().mean((1, 2))
        products = images @ following.transpose(2, 3)
        squares, theirs = images.square().sum(3), following.square().sum(3)
        apart = (squares[..., :, None] + theirs[..., None, :] - 2 * products) / images.shape[3]
        labels = guess["labels"].unflatten(1, (self.passes, -1))
        if not labels.is_floating_point():
            other = labels[..., :, None] != labels.roll(-1, dims=1)[..., None, :]
            apart = apart.masked_fill(other, torch.inf)
        return self.weight * (apart.amin(3).mean(2) + apart.amin(2).mean(2)).mean(1) / 2


class DropRate(Prior):
    """As many units are dropped as the rate says: each random site's own `penalty` of its noise, summed.

    For dropout that is `|(1 - mean(m)) - p|` (Scheliga et al., AAAI 2023).

    Args:
        sites: all of which a guess may hold a noise, by name.
        known: the sites whose noise is known: there is nothing to believe about them.
    """

    def __init__(self, weight: float, sites: Mapping[str, Site], *, known: Collection[str] = ()) -> None:
        self.weight = weight
        self.sites: Mapping[str, Site] = {path: site for path, site in sites.items() if path not in known}

    def __call__(self, guess: Guess, facts: Facts) -> Tensor:
        noise = {path: value for path, value in noise_of(guess).items() if path in self.sites}
        return self.weight * vmap(self._penalty)(guess["images"], noise)

    def _penalty(self, images: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Of one problem; zero, of the images' dtype, where nothing is drawn."""
        penalties = (self.sites[path].penalty(value) for path, value in noise.items())
        return sum(penalties, start=images.new_zeros(()))

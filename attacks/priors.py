"""What an attacker believes about a batch before it looks at the update: penalties added to the matching loss.

A prior maps a guess (see `attacks.unknowns`) of N problems to N penalties.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.func import vmap

from attacks.unknowns import Guess, noise_of
from defenses.client.site import Site


class Prior(Protocol):
    """Penalties (N,) of N problems' guesses."""

    def __call__(self, guess: Guess) -> Tensor:
        """The penalty of each problem (N,), weight included."""


@dataclass(frozen=True)
class TotalVariation:
    """Images are smooth: the mean absolute difference of neighbouring pixels, down and across.

    Shape:
        guess["images"]: (N, B, C, H, W).
    """

    weight: float

    def __call__(self, guess: Guess) -> Tensor:
        images = guess["images"]
        down, across = images.diff(dim=-2), images.diff(dim=-1)
        per_problem = sum(d.abs().flatten(1).mean(1) for d in (down, across) if d.numel())
        return self.weight * (per_problem + images.new_zeros(len(images)))


class DropRate:
    """As many units are dropped as the rate says: each random site's own `penalty` of its noise, summed.

    For dropout that is `|(1 - mean(m)) - p|` (Scheliga et al., AAAI 2023).

    Args:
        sites: all of which a guess may hold a noise, by name.
        known: the sites whose noise is known: there is nothing to believe about them.
    """

    def __init__(self, weight: float, sites: Mapping[str, Site], *, known: Collection[str] = ()) -> None:
        self.weight = weight
        self.sites: Mapping[str, Site] = {path: site for path, site in sites.items() if path not in known}

    def __call__(self, guess: Guess) -> Tensor:
        noise = {path: value for path, value in noise_of(guess).items() if path in self.sites}
        return self.weight * vmap(self._penalty)(guess["images"], noise)

    def _penalty(self, images: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Of one problem; zero, of the images' dtype, where nothing is drawn."""
        penalties = (self.sites[path].penalty(value) for path, value in noise.items())
        return sum(penalties, start=images.new_zeros(()))

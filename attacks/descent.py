"""How a composition of images, and of what else is looked for, moves: by L-BFGS where nothing has to be put back into
a set of its own after each step, else by Adam."""

from __future__ import annotations

from collections.abc import Sequence

from attacks.engine import Composition
from attacks.objectives import Cosine, RelativeEuclidean
from attacks.optimisers import LBFGS, Adam
from attacks.priors import Prior
from attacks.relaxed import Relaxed
from attacks.unknowns import Images, Setting, Unknown

NEAR = 0.3
"""How far from the mean images start that L-BFGS moves: from further away its first steps may end where nothing has a
slope."""

PACE = 5.0
"""Steps of L-BFGS are so many times as long, over what it estimates, as the learning rate, which is Adam's."""


def composed(
    setting: Setting,
    noise: Relaxed,
    priors: Sequence[Prior],
    *,
    memory: int = 50,
    others: Sequence[Unknown] = (),
    apart: bool = False,
) -> Composition:
    """By L-BFGS: images of any value, from near the mean, whose update is compared in length too, by the squared
    relative distance; models have to be smooth for it. By Adam: as in the Dropout Inversion Attack.

    Args:
        noise: decides, by what its sites' draws have to be put back into.
        memory: of L-BFGS.
        others: further unknowns, which may take any value.
        apart: see `Images`.
    """
    confined = noise.confined
    spread = 1.0 if confined else NEAR
    images = Images(setting, spread=spread, signed=confined, bounded=confined, apart=apart)
    return Composition(
        unknowns=[images, noise, *others],
        objective=Cosine() if confined else RelativeEuclidean(),
        priors=priors,
        optimiser=Adam() if confined else LBFGS(memory, pace=PACE),
    )

"""Which images of a data set a benchmark may look at, and for what: nothing is tuned on what is shown.

    tune        hyper-parameters are chosen by these
    validate    whether what was chosen holds up is looked at on these, as seldom as can be
    publish     what the pages of `docs/` show

Each image of a data set has one place for ever, by a permutation that no option changes: the first half is published, a
quarter each is to tune and to validate by. So splits share no image, whatever the seed of a benchmark.
"""

from __future__ import annotations

import argparse
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fedsim.random import rng_for

Split = Literal["tune", "validate", "publish"]


def victims(images: int, split: Split, *, seed: int = 0) -> Tensor:
    """The places (N,) of a split's images among all, in the order in which a benchmark of that seed takes them."""
    half, quarter = images // 2, images // 4
    bounds = {"publish": (0, half), "tune": (half, half + quarter), "validate": (half + quarter, images)}
    first, last = bounds[split]
    theirs = np.zeros(images, dtype=bool)
    theirs[rng_for(0, "victims").permutation(images)[first:last]] = True
    order = rng_for(seed, "victims").permutation(images)
    return torch.from_numpy(order[theirs[order]])


def add_split(parser: argparse.ArgumentParser) -> None:
    """The option `--split` of a benchmark."""
    help = "tune and validate are for choosing hyper-parameters; only publish is shown (CONTRIBUTING.md)"
    parser.add_argument("--split", choices=get_args(Split), default="publish", help=help)

"""Other ways to look for masks than in the box [0, 1] by projection, as the Dropout Inversion Attack (Scheliga et al.,
AAAI 2023) does."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from attacks.unknowns import NOISE, Draw, Noise, Setting
from defenses.client.site import Site

Relaxation = Literal["box", "logistic", "annealed", "straight_through"]
RELAXATIONS: tuple[str, ...] = get_args(Relaxation)

SPREAD = 0.1
"""Standard deviation of the logits at first, around what makes the mask its mean everywhere."""

WARM = 0.05
"""How far from 0 and 1 a mask that was found is taken to be: further out its logit has no slope."""

ANNEALED = 1.002
"""By what logits grow in each iteration: ten times in 1,150."""


class Relaxed(Noise):
    """What the random sites drew, those whose draws lie in [0, 1] by another relaxation:

        box                 themselves, put back into the box after each step (Scheliga et al.)
        logistic            the sigmoid of any number, so that nothing has to be put back: where a search moves by
                            more than a gradient, as L-BFGS does, it needs this
        annealed            likewise, at a temperature that falls: what the binary concrete distribution becomes
                            without its own noise (Maddison et al., and Jang et al., ICLR 2017)
        straight_through    rounded to 0 or 1, with the slope of the box (Bengio et al., arXiv 1308.3432)

    Other sites' draws, as numbers without bounds, stand for themselves.
    """

    def __init__(self, setting: Setting, relaxation: Relaxation) -> None:
        super().__init__(setting)
        self.relaxation = relaxation
        self.boxed = {name for name in self.inputs if relaxation != "box" and in_box(self.sites[name])}

    @property
    def confined(self) -> bool:
        """Whether anything has to be put back into its set."""
        smooth = self.boxed if self.relaxation in ("logistic", "annealed") else set[str]()
        return any(name not in smooth and not unbounded(self.sites[name]) for name in self.inputs)

    def start(self, draw: Draw) -> dict[str, Tensor]:
        drawn = super().start(draw)
        if self.relaxation == "straight_through":
            return drawn
        for name in self.boxed:
            mask = drawn[NOISE + name]
            around = torch.randn(mask.shape, generator=draw(f"{NOISE}{name} logits"))
            drawn[NOISE + name] = mask.mean().clamp(WARM, 1 - WARM).logit() + SPREAD * around
        return drawn

    def free(self, name: str, value: Tensor) -> Tensor:
        if name.removeprefix(NOISE) not in self.boxed or self.relaxation == "straight_through":
            return value
        return value.clamp(WARM, 1 - WARM).logit()

    def value(self, name: str, free: Tensor) -> Tensor:
        if name.removeprefix(NOISE) not in self.boxed:
            return free
        if self.relaxation == "straight_through":
            return free + (free.round() - free).detach()
        return free.sigmoid()

    def project(self, name: str, value: Tensor) -> Tensor:
        if name.removeprefix(NOISE) not in self.boxed or self.relaxation == "straight_through":
            return super().project(name, value)
        return value if self.relaxation == "logistic" else (ANNEALED * value).clamp(-12, 12)


def in_box(site: Site) -> bool:
    """Whether a draw may be anything in [0, 1], each entry for itself, and nothing else."""
    return bool(torch.equal(site.project(torch.tensor([-1.0, 0.25, 2.0])), torch.tensor([0.0, 0.25, 1.0])))


def unbounded(site: Site) -> bool:
    """Whether a draw may be any numbers."""
    ends = torch.tensor([-1e3, 0.25, 1e3])
    return bool(torch.equal(site.project(ends), ends))

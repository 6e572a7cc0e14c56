"""Improved Deep Leakage from Gradients (iDLG): Zhao, Mopuri, Bilen, *iDLG: Improved deep leakage from gradients*, 2020
(arXiv 2001.02610), which is DLG (Zhu, Liu, Han, NeurIPS 2019) with the labels read off instead of optimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import register
from attacks.engine import Composition
from attacks.iterative import IterativeAttack
from attacks.objectives import Euclidean
from attacks.optimisers import LBFGS
from attacks.unknowns import Images, Setting


@register("idlg")
@dataclass(kw_only=True, eq=False)
class IDLG(IterativeAttack):
    """Match the update itself, by L-BFGS, with images that may take any value:

        min_x  |g(x) - g*|^2

    Needs a model that is smooth twice over, such as one of sigmoids. It takes no notice of dropout.

    Args:
        memory: how many past steps L-BFGS estimates the curvature from.
    """

    paper: ClassVar[str] = "Zhao, Mopuri, Bilen, 2020 (arXiv 2001.02610)"
    exploits: ClassVar[str] = "a model that is smooth twice over"
    under_dropout: ClassVar[str] = "worse: takes no notice of it"

    iterations: int = 6_000
    learning_rate: float = 1.0
    total_variation: float = 0.0
    tolerance: float = 1e-10
    memory: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("memory")

    def compose(self, setting: Setting) -> Composition:
        return Composition(
            unknowns=[Images(setting, signed=False, bounded=False)],
            objective=Euclidean(),
            optimiser=LBFGS(self.memory),
        )

"""SAPAG: Wang, Deng, Guo and others, *SAPAG: A Self-Adaptive Privacy Attack From Gradients*, 2020
(arXiv 2009.06228)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import register
from attacks.engine import Composition
from attacks.iterative import IterativeAttack
from attacks.objectives import GaussianKernel
from attacks.priors import TotalVariation
from attacks.unknowns import Images, Setting


@register("sapag")
@dataclass(kw_only=True, eq=False)
class SAPAG(IterativeAttack):
    """Match each parameter's gradient by a Gaussian kernel as wide as that gradient is:

        min_x  sum_l 1 - exp(-|g_l(x) - g_l*|^2 / |g_l*|^2) + total_variation * TV(x)

    so that large layers do not outweigh small ones, and no layer that cannot be matched outweighs all others. By Adam,
    on the raw gradient.
    """

    paper: ClassVar[str] = "Wang et al., 2020 (arXiv 2009.06228)"
    exploits: ClassVar[str] = "any model that can be replayed"
    under_dropout: ClassVar[str] = "worse: takes no notice of it"

    learning_rate: float = 0.1

    def compose(self, setting: Setting) -> Composition:
        return Composition(
            unknowns=[Images(setting, signed=False)],
            objective=GaussianKernel(),
            priors=[TotalVariation(self.total_variation)],
        )

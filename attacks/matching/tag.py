"""TAG: Deng, Wang, Li and others, *TAG: Gradient Attack on Transformer-based Language Models*,
Findings of EMNLP 2021 (arXiv 2103.06819), applied to images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import register
from attacks.engine import Composition
from attacks.iterative import IterativeAttack
from attacks.objectives import EuclideanAndManhattan
from attacks.priors import TotalVariation
from attacks.unknowns import Images, Setting


@register("tag")
@dataclass(kw_only=True, eq=False)
class TAG(IterativeAttack):
    """Match the update in the squares of its entries' differences, and in their sizes:

        min_x  |g(x) - g*|_2^2 / |g*|_2^2 + alpha |g(x) - g*|_1 / |g*|_1 + total_variation * TV(x)

    The second term keeps small entries from being outweighed. It needs whole gradients, so that it is slower than
    attacks that match a cosine.

    Args:
        alpha: weight of the second term.
    """

    paper: ClassVar[str] = "Deng et al., Findings of EMNLP 2021 (arXiv 2103.06819), applied to images"
    exploits: ClassVar[str] = "any model that can be replayed"
    under_dropout: ClassVar[str] = "worse: takes no notice of it"

    alpha: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._weights("alpha")

    def compose(self, setting: Setting) -> Composition:
        return Composition(
            unknowns=[Images(setting)],
            objective=EuclideanAndManhattan(self.alpha),
            priors=[TotalVariation(self.total_variation)],
        )

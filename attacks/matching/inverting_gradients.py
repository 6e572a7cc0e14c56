"""Inverting Gradients (IG): Geiping, Bauermeister, Dröge, Moeller, *How easy is it to break privacy in federated
learning?*, NeurIPS 2020 (arXiv 2003.14053)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import register
from attacks.engine import Composition
from attacks.iterative import IterativeAttack
from attacks.objectives import Cosine
from attacks.priors import TotalVariation
from attacks.unknowns import Images, Setting


@register("inverting_gradients")
@dataclass(kw_only=True, eq=False)
class InvertingGradients(IterativeAttack):
    """Match the direction of the update with smooth images:

        min_x  1 - cos(g(x), g*) + total_variation * TV(x)

    The model is deterministic: this attack takes no notice of dropout, which is how dropout seems to stop it.
    """

    paper: ClassVar[str] = "Geiping et al., NeurIPS 2020 (arXiv 2003.14053)"
    exploits: ClassVar[str] = "any model that can be replayed"
    under_dropout: ClassVar[str] = "worse: takes no notice of it"
    requires: ClassVar = {**IterativeAttack.requires, "labels": ("known", "inferred", "unknown")}
    adapts: ClassVar = {"clip": None}  # the cosine does not see lengths

    def compose(self, setting: Setting) -> Composition:
        return Composition(
            unknowns=[Images(setting)],
            objective=Cosine(),
            priors=[TotalVariation(self.total_variation)],
        )

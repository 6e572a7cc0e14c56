"""Inverting Gradients (IG): Geiping, Bauermeister, Dröge, Moeller, *How easy is it to break privacy in federated
learning?*, NeurIPS 2020 (arXiv 2003.14053)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import NotApplicable, Reconstruction, register
from attacks.engine import Composition
from attacks.iterative import IterativeAttack
from attacks.objectives import Cosine
from attacks.passes import once, repeated
from attacks.priors import TotalVariation
from attacks.unknowns import Images, Setting
from attacks.victim import Victim


@register("inverting_gradients")
@dataclass(kw_only=True, eq=False)
class InvertingGradients(IterativeAttack):
    """Match the direction of the update with smooth images:

        min_x  1 - cos(g(x), g*) + total_variation * TV(x)

    The model is deterministic: this attack takes no notice of dropout, which is how dropout seems to stop it. With
    `draws: anew` and `averaged` it takes the mean of g over so many draws of all masks, others in each iteration: what
    whoever looks for the masks has to beat.

    Args:
        averaged: over so many draws in each iteration.
    """

    paper: ClassVar[str] = "Geiping et al., NeurIPS 2020 (arXiv 2003.14053)"
    exploits: ClassVar[str] = "any model that can be replayed"
    under_dropout: ClassVar[str] = "worse: takes no notice of it"

    later: ClassVar = (*IterativeAttack.later, "averaged")

    requires: ClassVar = {**IterativeAttack.requires, "labels": ("known", "inferred", "unknown")}
    adapts: ClassVar = {"clip": None}  # the cosine does not see lengths

    averaged: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("averaged")
        if self.averaged > 1 and self.draws != "anew":
            raise ValueError(f"{self.name}: averaged = {self.averaged} needs draws = 'anew'")

    def regarded(self, victim: Victim) -> Victim:
        if self.averaged == 1:
            return victim
        if victim.kind != "gradient":
            raise NotApplicable("draws are averaged over in a single step")
        return repeated(victim, self.averaged)

    def answered(self, answer: Reconstruction, setting: Setting) -> Reconstruction:
        return once(answer, setting.passes)

    def compose(self, setting: Setting) -> Composition:
        return Composition(
            unknowns=[Images(setting)],
            objective=Cosine(),
            priors=[TotalVariation(self.total_variation)],
        )

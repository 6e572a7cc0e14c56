"""Deep Leakage from Gradients (DLG): Zhu, Liu, Han, NeurIPS 2019 (arXiv 1906.08935)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from attacks.base import register
from attacks.engine import Composition
from attacks.iterative import IterativeAttack
from attacks.matching.idlg import IDLG
from attacks.unknowns import Images, Setting, SoftLabels


@register("dlg")
@dataclass(kw_only=True, eq=False)
class DLG(IDLG):
    """Match the update itself, by L-BFGS, with images and labels that may take any value:

        min_{x, y}  |g(x, softmax(y)) - g*|^2

    It needs no labels and uses none: its answer's are the classes of the largest y. Otherwise as iDLG.
    """

    paper: ClassVar[str] = "Zhu, Liu, Han, NeurIPS 2019 (arXiv 1906.08935)"
    exploits: ClassVar[str] = "a model that is smooth twice over"
    under_dropout: ClassVar[str] = "worse: takes no notice of it"
    requires: ClassVar = {aspect: v for aspect, v in IterativeAttack.requires.items() if aspect != "labels"}
    ignores: ClassVar = (*IterativeAttack.ignores, "labels")

    def compose(self, setting: Setting) -> Composition:
        images = Images(setting, signed=False, bounded=False)
        return replace(super().compose(setting), unknowns=[images, SoftLabels(setting)])

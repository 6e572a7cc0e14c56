"""GradInversion: Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov, *See through Gradients: Image Batch Recovery via
GradInversion*, CVPR 2021 (arXiv 2104.07586)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from attacks.base import NotApplicable, register
from attacks.batch_norm import BatchNormStatistics
from attacks.engine import Composition
from attacks.iterative import IterativeAttack
from attacks.objectives import Distances
from attacks.priors import GroupConsistency, Norm, TotalVariation
from attacks.unknowns import Images, Setting


@register("gradinversion")
@dataclass(kw_only=True, eq=False)
class GradInversion(IterativeAttack):
    """Match each parameter's gradient, with images that have the right batch-norm statistics and that several restarts
    agree on:

        min_x  gradient * sum_l |g_l(x) - g_l*|_2 + total_variation * TV(x) + norm * |x|_2
               + batch_norm * sum_l (|mean_l(x) - mean_l*|_2 + |var_l(x) - var_l*|_2)
               + group * |x - mean of the restarts' x|_2

    by Adam on the raw gradient. The statistics are the running ones that the server itself sent, or, where the buffers
    that come back from a client in train mode reveal them, those of its very batch (`attacks.statistics`). It declines
    a model without batch norm, and running statistics that no batch has moved. Left out of the paper: the noise that it
    adds to the pixels, its learning rate's warm-up and cosine, and the registration of the restarts' images.

    Args:
        gradient: weight of the distances.
        norm: weight of the images' norm.
        batch_norm: weight of the batch-norm prior.
        group: weight of the restarts' agreement; with one restart there is nothing to agree on.
    """

    paper: ClassVar[str] = "Yin et al., CVPR 2021 (arXiv 2104.07586), *See through gradients*"
    exploits: ClassVar[str] = "batch norm"
    under_dropout: ClassVar[str] = "worse: takes no notice of it"
    requires: ClassVar = {
        **IterativeAttack.requires,
        "labels": ("known", "inferred", "unknown"),
        "batch_norm": ("running", "batch"),
    }

    restarts: int = 4
    total_variation: float = 1e-4
    gradient: float = 1e-3
    norm: float = 1e-6
    batch_norm: float = 0.1
    group: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.gradient) and self.gradient > 0):
            raise ValueError(f"{self.name}: gradient = {self.gradient!r} is not a positive number")
        for key in ("norm", "batch_norm", "group"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"{self.name}: {key} = {getattr(self, key)!r} is not a number of at least 0")

    def compose(self, setting: Setting) -> Composition:
        if setting.batch_norm == "none":
            raise NotApplicable("needs batch-norm statistics")
        steps = len(setting.sizes)
        return Composition(
            unknowns=[Images(setting, signed=False)],
            objective=Distances(self.gradient),
            priors=[
                TotalVariation(self.total_variation),
                Norm(self.norm),
                BatchNormStatistics(self.batch_norm, setting.model, steps=steps, of=setting.batch_norm),
                GroupConsistency(self.group),
            ],
        )

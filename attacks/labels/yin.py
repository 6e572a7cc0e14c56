"""Yin's minimum: the labels are the classes whose rows of the last weight gradient have the lowest entries (Yin et al.,
See Through Gradients: Image Batch Recovery via GradInversion, CVPR 2021)."""

from __future__ import annotations

from typing import ClassVar

import torch

from attacks.base import NotApplicable
from attacks.labels.base import Evidence, Inferred, LabelInference, register


@register("yin")
class Yin(LabelInference):
    """The B classes of the lowest row minima: B different labels, which is what the paper assumes of a batch.

    Of a batch with repeats it names others besides; a batch larger than the number of classes it declines.
    """

    paper: ClassVar = "Yin et al., CVPR 2021"

    def infer(self, evidence: Evidence) -> Inferred:
        if evidence.images > evidence.classes:
            raise NotApplicable(
                f"takes the labels of a batch to differ: {evidence.images} images have more than "
                f"{evidence.classes} classes"
            )
        lowest = evidence.weighed().amin(1)
        counts = torch.zeros(evidence.classes, dtype=torch.int64)
        counts[lowest.argsort()[: evidence.images]] = 1
        negative = float(-lowest.clamp_max(0).sum())
        return self.answer(counts, lowest * evidence.images / negative if negative > 0 else lowest)

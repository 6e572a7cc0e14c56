"""LLG: labels counted in the row sums of the last weight gradient, whose impact is estimated (Wainakh et al.,
User-Level Label Leakage from Gradients in Federated Learning, PETS 2022)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import NotApplicable
from attacks.labels.base import Evidence, Inferred, LabelInference, register


class _Counting(LabelInference):
    """The counting that both variants share."""

    paper: ClassVar = "Wainakh et al., PETS 2022"

    def _count(self, sums: Tensor, images: int, impact: float, offset: Tensor) -> Inferred:
        """First the labels whose sums are negative, then the lowest ones, each raised by the impact of one image.

        Args:
            sums: (K,) of the rows of the weight gradient.
            impact: how much one image lowers its label's sum, positive.
            offset: (K,) what the sums are raised by images of other labels.
        """
        counts = torch.zeros(len(sums), dtype=torch.int64)
        left = sums.clone()
        for label in sums.argsort().tolist()[:images]:
            if sums[label] < 0:
                counts[label] += 1
                left[label] += impact
        left -= offset
        while int(counts.sum()) < images:
            label = int(left.argmin())
            counts[label] += 1
            left[label] += impact
        return self.answer(counts, sums / impact)


@register("llg")
class LLG(_Counting):
    """The impact is estimated from the negative sums: `(1 + 1 / K) / B` of them, each image's softmax being even.

    A row's sum has the sign of its entry where what enters the layer is not negative, as behind ReLU or a sigmoid.
    """

    def infer(self, evidence: Evidence) -> Inferred:
        sums = evidence.weighed().sum(1)
        impact = float(-sums.clamp_max(0).sum()) * (1 + 1 / evidence.classes) / evidence.images
        if impact <= 0:
            raise NotApplicable("no row of the last layer's gradient has a negative sum")
        return self._count(sums, evidence.images, impact, torch.zeros_like(sums))


@register("llg_star")
class LLGStar(_Counting):
    """LLG*: impact and offset are what the model that was sent shows on dummy images.

    Of images with the sum s of what enters the layer and the probabilities p, a label lowers its row's sum by
    `mean(s)`, and all images raise each by `mean(p s)`.
    """

    def infer(self, evidence: Evidence) -> Inferred:
        entered, probabilities = evidence.probed
        totals = entered.sum(1)
        impact = float(totals.mean())
        sums = evidence.weighed().sum(1)
        if impact == 0:
            raise NotApplicable("what enters the last layer sums to zero")
        sign = 1.0 if impact > 0 else -1.0  # where the inputs sum to less than zero the rows are turned
        offset = sign * evidence.images * (probabilities * totals[:, None]).mean(0)
        return self._count(sign * sums, evidence.images, abs(impact), offset)

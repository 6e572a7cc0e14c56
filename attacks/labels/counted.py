"""Labels counted in the bias gradient, one after the other (after Wainakh et al., PETS 2022)."""

from __future__ import annotations

from typing import ClassVar

from attacks.labels.base import Evidence, Inferred, LabelInference, fill, register


@register("counted")
class Counted(LabelInference):
    """Each label is that of the most negative entry of the bias gradient, which it raises by one image's share.

    At the bias the impact of a label need not be estimated: it is 1 / B. What is left is the mean softmax, which this
    takes to be as even as it can be: the model is not yet sure of anything.
    """

    paper: ClassVar = "after Wainakh et al., PETS 2022"

    def infer(self, evidence: Evidence) -> Inferred:
        bias = evidence.biased()
        return self.answer(fill(bias, evidence.images), bias)

"""Geng's counts: the gradient at the logits solved for the number of each label, with probabilities that the model
shows on dummy images (Geng et al., Towards General Deep Leakage in Federated Learning, arXiv 2110.09074, 2021)."""

from __future__ import annotations

from typing import ClassVar

from attacks.base import NotApplicable
from attacks.labels.base import Evidence, Inferred, LabelInference, register


@register("geng")
class Geng(LabelInference):
    """`count_k = B (p_k - dL/db_k)`, rounded; without a bias `B (p_k - sum_j dL/dW_kj / s)`, where s is what enters the
    layer, summed. p and s are means over dummy images."""

    paper: ClassVar = "Geng et al., arXiv 2110.09074, 2021"

    def infer(self, evidence: Evidence) -> Inferred:
        entered, probabilities = evidence.probed
        if evidence.bias is not None:
            signal = evidence.bias
        else:
            total = float(entered.sum(1).mean())
            if total == 0:
                raise NotApplicable("what enters the last layer sums to zero")
            signal = evidence.weighed().sum(1) / total
        expected = evidence.images * probabilities.mean(0) - signal
        return self.solved(expected, signal, evidence.images)

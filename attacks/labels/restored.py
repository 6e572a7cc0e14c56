"""Labels restored from class-wise embeddings (Ma et al., Instance-wise Batch Label Restoration via Gradients in
Federated Learning, ICLR 2023)."""

from __future__ import annotations

from typing import ClassVar

import torch

from attacks.labels.base import Evidence, Inferred, LabelInference, register


@register("restored")
class Restored(LabelInference):
    """`dL/dW_k / dL/db_k` is about what enters the layer of the images of class k; the layer says their probabilities
    `p(k)`, and the counts c solve `sum_k c_k p(k) - c = B dL/db` by least squares, with `sum c = B`.

    It follows a trained model: images of a class are the surer, the better it knows them.
    """

    paper: ClassVar = "Ma et al., ICLR 2023"

    def infer(self, evidence: Evidence) -> Inferred:
        bias, weight, layer = evidence.biased(), evidence.weighed(), evidence.layer
        offset = layer.bias.detach().double().cpu() if layer.bias is not None else torch.zeros_like(bias)
        entered = weight / torch.where(bias.abs() > 0, bias, torch.finfo(torch.float64).tiny)[:, None]
        probabilities = (entered @ layer.weight.detach().double().cpu().T + offset).nan_to_num(0.0).softmax(-1)
        system = torch.cat([probabilities.T - torch.eye(evidence.classes), torch.ones(1, evidence.classes)])
        right = torch.cat([bias, torch.tensor([float(evidence.images)])])
        expected = torch.linalg.pinv(system, rtol=1e-9) @ right
        return self.solved(expected, bias, evidence.images)

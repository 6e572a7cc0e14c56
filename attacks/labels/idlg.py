"""iDLG: the label of one image is that of the only negative entry (Zhao, Mopuri, Bilen, arXiv 2001.02610, 2020)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import NotApplicable
from attacks.labels.base import Evidence, Inferred, LabelInference, register
from attacks.labels.confidence import normal


@register("idlg")
class IDLG(LabelInference):
    """`softmax_k - [k = label]` is negative at the label alone.

    The paper reads that sign off the weight gradient's rows, which takes inputs of one sign; the bias has it itself,
    and without one the label's row is as large as all others together, since the entries sum to zero.
    """

    paper: ClassVar = "Zhao et al., arXiv 2001.02610, 2020"

    def infer(self, evidence: Evidence) -> Inferred:
        if evidence.images > 1:
            raise NotApplicable("reads the label of one image: a batch may have several negative entries")
        if evidence.bias is not None:
            counts = torch.nn.functional.one_hot(evidence.bias.argmin(), evidence.classes)
            return self.answer(counts, evidence.bias)
        if evidence.classes == 2:
            raise NotApplicable("labels of two classes cannot be inferred: the update has no bias of the last layer")
        return self._largest(evidence.weighed().norm(dim=1))

    def _largest(self, norms: Tensor) -> Inferred:
        """By the norms of the rows of the weight gradient (K,)."""
        label = int(norms.argmax())
        largest, rest = float(norms[label]), torch.cat([norms[:label], norms[label + 1 :]])
        noise = abs(largest - float(rest.sum())) / math.sqrt(len(norms)) + torch.finfo(torch.float32).eps * largest
        sure = normal((largest - float(rest.max())) / (math.sqrt(2) * noise))
        counts = torch.nn.functional.one_hot(torch.tensor(label), len(norms))
        return self.answer(counts, norms, sure=sure)

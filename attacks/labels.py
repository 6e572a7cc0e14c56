"""Which labels a batch had, read off the gradient of the last linear layer.

Under cross-entropy the gradient at class k's logit is `mean(softmax_k) - count_k / B`: negative where k was present.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable


def infer_labels(model: nn.Module, gradient: Mapping[str, Tensor], *, batch_size: int, classes: int) -> Tensor:
    """The labels of one batch, in ascending order.

    At batch size 1 they are exact (Zhao et al., iDLG, 2020): the bias gradient is negative at the label alone; without
    a bias, the label's row of the weight gradient is as large as all others together. Larger batches are counted from
    the bias gradient, label by label the most negative entry (Wainakh et al., PETS 2022), which assumes that the model
    is not yet sure of anything.

    Args:
        model: its last linear layer with `classes` outputs is the one that is read.
        gradient: of one local step, by parameter name.

    Returns:
        Class indices (batch_size,), int64.

    Raises:
        NotApplicable: no such layer, or a batch above 1 without a bias.
    """
    heads = [path for path, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not heads:
        raise NotApplicable(f"labels cannot be inferred: the model has no linear layer of {classes} outputs")
    prefix = f"{heads[-1]}." if heads[-1] else ""
    bias = gradient.get(f"{prefix}bias")
    if bias is not None:
        remaining, found = bias.double().clone(), []
        for _ in range(batch_size):
            label = int(remaining.argmin())
            remaining[label] += 1 / batch_size
            found.append(label)
        return torch.tensor(sorted(found))
    weight = gradient.get(f"{prefix}weight")
    if weight is None:
        raise NotApplicable("labels cannot be inferred: the update lacks the last linear layer")
    if batch_size > 1:
        raise NotApplicable("labels of a batch cannot be inferred: the last linear layer has no bias")
    if classes == 2:
        raise NotApplicable("labels of two classes cannot be inferred: the last linear layer has no bias")
    return weight.flatten(1).norm(dim=1).argmax().cpu().view(1)

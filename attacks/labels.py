"""Which labels a batch had, read off the gradient of the last linear layer.

Under cross-entropy the gradient at class k's logit is `mean(softmax_k) - count_k / B`: negative where k was present.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable
from defenses.client.compute import own_loss


@dataclass(frozen=True)
class Inferred:
    """Labels that were read off an update.

    Args:
        labels: class indices (batch_size,), int64, in ascending order.
        confidence: in [0, 1], the share of them that is expected to be right.
    """

    labels: Tensor
    confidence: float


def infer_labels(model: nn.Module, gradient: Mapping[str, Tensor], *, batch_size: int, classes: int) -> Inferred:
    """The labels of one batch.

    At batch size 1 they are exact (Zhao et al., iDLG, 2020): the bias gradient is negative at the label alone; without
    a bias, the label's row of the weight gradient is as large as all others together. Larger batches are counted from
    the bias gradient, label by label the most negative entry (Wainakh et al., PETS 2022), which assumes that the model
    is not yet sure of anything. How far that holds is in the confidence, a heuristic:

    - A label that was counted where the gradient was negative must be there: a softmax cannot be. It is as sure as that
      sign is, given the noise that shows in the sum of all entries (zero without noise) and in what stays negative.
    - Any other is a guess. Had it been the label of another class, the mean softmax would be one example's share lower
      here and higher there; both are weighed by a normal distribution of it over the classes. That is as wide as what
      is left after counting, and as the labels themselves are in so far as the model is sure: then its softmax follows
      them, and the gradient is smaller than the counts would make it. Of large batches no more labels are wrong than
      counts of that error have wrong.

    Args:
        model: its last linear layer with `classes` outputs is the one that is read.
        gradient: of one local step, by parameter name.

    Raises:
        NotApplicable: no such layer, or a batch above 1 without a bias.
    """
    if own_loss(model) is not None:
        raise NotApplicable("labels cannot be inferred: the loss is another than the cross-entropy")
    heads = [path for path, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not heads:
        raise NotApplicable(f"labels cannot be inferred: the model has no linear layer of {classes} outputs")
    prefix = f"{heads[-1]}." if heads[-1] else ""
    bias = gradient.get(f"{prefix}bias")
    if bias is not None:
        return _counted(bias.double().cpu() * batch_size, batch_size)
    weight = gradient.get(f"{prefix}weight")
    if weight is None:
        raise NotApplicable("labels cannot be inferred: the update lacks the last linear layer")
    if batch_size > 1:
        raise NotApplicable("labels of a batch cannot be inferred: the update has no bias of the last linear layer")
    if classes == 2:
        raise NotApplicable("labels of two classes cannot be inferred: the update has no bias of the last linear layer")
    return _largest(weight.double().cpu().flatten(1).norm(dim=1))


def _counted(scaled: Tensor, batch_size: int) -> Inferred:
    """By the bias gradient in units of an example's share (K,)."""
    left, found, at = scaled.clone(), [], []
    for _ in range(batch_size):
        label = int(left.argmin())
        found.append(label)
        at.append(float(left[label]))
        left[label] += 1
    counts = torch.bincount(torch.tensor(found), minlength=len(scaled)).double()
    noise = max(abs(float(scaled.sum())) / math.sqrt(len(scaled)), -float(left.min()))
    noise += torch.finfo(torch.float32).eps * float(scaled.abs().max())
    uniform = batch_size / len(scaled)
    untrained = (counts - uniform).clamp_min(0).sum()  # what would be negative if the softmax were uniform
    negative = max(0.0, float(-scaled.clamp_max(0).sum()) - 0.4 * len(scaled) * noise)
    sure = 1 - min(1.0, negative / float(untrained)) if untrained > 0 else 0.0
    width = float(left.var()) + sure**2 * uniform * (1 - 1 / len(scaled)) + noise**2
    right = []
    for label, value in zip(found, at):
        proven = _normal(-value / noise) ** len(scaled) if noise > 0 else float(value < 0)  # noise makes none so low
        odds = torch.exp(-(1 + left - left[label]) / max(width, 1e-12))
        odds[label] = 0
        guessed = 1 / (1 + float(odds.sum()))
        right.append(proven + (1 - proven) * guessed)
    off = 0.4 * len(scaled) * math.sqrt(width)  # half of sum |error| of K counts, each normal
    return Inferred(torch.tensor(sorted(found)), max(sum(right), batch_size - off) / batch_size)


def _largest(norms: Tensor) -> Inferred:
    """Of one image, by the norms of the rows of the weight gradient (K,)."""
    label = int(norms.argmax())
    largest, rest = float(norms[label]), torch.cat([norms[:label], norms[label + 1 :]])
    noise = abs(largest - float(rest.sum())) / math.sqrt(len(norms)) + torch.finfo(torch.float32).eps * largest
    return Inferred(torch.tensor([label]), _normal((largest - float(rest.max())) / (math.sqrt(2) * noise)))


def _normal(value: float) -> float:
    """The standard normal distribution function."""
    return (1 + math.erf(value / math.sqrt(2))) / 2

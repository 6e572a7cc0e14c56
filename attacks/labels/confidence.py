"""How sure inferred labels are: a heuristic that needs the counts and the gradient at the logits, and no truth.

- A label that was counted where the gradient was negative must be there: a softmax cannot be. It is as sure as that
  sign is, given the noise that shows in the sum of all entries (zero without noise) and in what stays negative.
- Any other is a guess. Had it been the label of another class, the mean softmax would be one example's share lower
  here and higher there; both are weighed by a normal distribution of it over the classes. That is as wide as what
  is left after counting, and as the labels themselves are in so far as the model is sure: then its softmax follows
  them, and the gradient is smaller than the counts would make it. Of large batches no more labels are wrong than
  counts of that error have wrong.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def confidence(scaled: Tensor, counts: Tensor, *, uneven: bool = False) -> float:
    """The share of the labels that is expected to be right.

    Args:
        scaled: (K,) the gradient at the logits in units of one example's share.
        counts: (K,) how many labels of each class were counted.
        uneven: whether the softmax is known not to be even, so that what is left after counting may follow the labels.
    """
    images, left = int(counts.sum()), scaled + counts
    noise = max(abs(float(scaled.sum())) / math.sqrt(len(scaled)), -float(left.min()))
    noise += torch.finfo(torch.float32).eps * float(scaled.abs().max())
    uniform = images / len(scaled)
    untrained = (counts - uniform).clamp_min(0).sum()  # what would be negative if the softmax were uniform
    negative = max(0.0, float(-scaled.clamp_max(0).sum()) - 0.4 * len(scaled) * noise)
    sure = 1 - min(1.0, negative / float(untrained)) if untrained > 0 else 0.0
    sure = 1.0 if uneven else sure
    width = float(left.var()) + sure**2 * uniform * (1 - 1 / len(scaled)) + noise**2
    right = 0.0
    for label in counts.nonzero().flatten().tolist():
        odds = torch.exp(-(1 + left - left[label]) / max(width, 1e-12))
        odds[label] = 0
        guessed = 1 / (1 + float(odds.sum()))
        for before in range(int(counts[label])):
            value = float(scaled[label]) + before
            proven = normal(-value / noise) ** len(scaled) if noise > 0 else float(value < 0)  # noise makes none so low
            right += proven + (1 - proven) * guessed
    off = 0.4 * len(scaled) * math.sqrt(width)  # half of sum |error| of K counts, each normal
    return max(right, images - off) / images


def of_whole(misfit: float, images: int, classes: int) -> float:
    """The share of labels that is right where expected counts are this far (root mean square) from whole numbers."""
    wrong = math.erfc(0.5 / (math.sqrt(2) * max(misfit, 1e-6))) * classes / 2  # each label too many is one too few
    return max(0.0, 1 - wrong / images)


def normal(value: float) -> float:
    """The standard normal distribution function."""
    return (1 + math.erf(value / math.sqrt(2))) / 2

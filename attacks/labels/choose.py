"""Which method `labels: inferred` uses, by what the update and the model show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable
from attacks.labels.base import Evidence, Inferred, create
from attacks.labels.confidence import confidence, of_whole
from attacks.labels.counted import Counted

WHOLE = 0.1
"""Expected counts that are this near to whole numbers, root mean square, are right. Chosen on development victims."""

AGREE = 0.9
"""Two methods that share so many of the labels agree."""


def infer_labels(
    model: nn.Module,
    gradient: Mapping[str, Tensor],
    *,
    batch_size: int,
    classes: int,
    input_shape: tuple[int, int, int] | None = None,
    method: str = "",
) -> Inferred:
    """The labels of one batch, or of the batches of several local steps together.

    Args:
        model: the attacker's copy with the weights that were sent, in the client's mode; its last linear layer with
            `classes` outputs is the one that is read.
        gradient: the mean over all images, by parameter name.
        batch_size: how many images, of all steps.
        input_shape: (C, H, W) of one; without it no method can show the model any.
        method: one by name; by default what docs/labels.md has found to be right most often.

    Raises:
        NotApplicable: no such layer, or a method that does not apply, with the reason.
    """
    evidence = Evidence.of(model, gradient, images=batch_size, classes=classes, input_shape=input_shape)
    return create(method).infer(evidence) if method else _best(evidence)


def _best(evidence: Evidence) -> Inferred:
    """By what was found on development victims (docs/labels.md).

    The counts that Geng's and Ma's methods expect are whole numbers where their picture of the probabilities is right,
    which is that of a model that knows nothing yet. Where Geng's are not, and the two disagree besides, the softmax is
    another than either supposes: then only the sign of an entry is sure, and labels are counted. Without a bias all
    guess.
    """
    if evidence.images == 1:
        return create("idlg").infer(evidence)
    if evidence.bias is None:
        found = create("llg" if evidence.input_shape is None else "geng").infer(evidence)
        if math.isnan(found.misfit):
            return found
        sure = of_whole(found.misfit, evidence.images, evidence.classes)
        return replace(found, confidence=min(found.confidence, sure))
    counted = Counted().infer(evidence)
    try:
        geng, restored = create("geng").infer(evidence), create("restored").infer(evidence)
    except NotApplicable:  # nobody told the shape of an image, or the layer's weight did not come back
        return counted
    agree = _shared(geng, restored, evidence.classes) >= AGREE * evidence.images
    if geng.misfit > WHOLE and not agree:
        sure = confidence(evidence.bias, counted.counts(evidence.classes), uneven=True)
        return replace(counted, confidence=min(sure, counted.confidence))
    found = restored if agree and restored.misfit < geng.misfit else geng
    return replace(found, confidence=of_whole(found.misfit, evidence.images, evidence.classes))


def _shared(one: Inferred, other: Inferred, classes: int) -> int:
    """How many labels two answers have in common."""
    return int(torch.minimum(one.counts(classes), other.counts(classes)).sum())

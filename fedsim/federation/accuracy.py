"""How good the global model is: its accuracy on images that no client holds."""

from __future__ import annotations

import torch
from torch import nn

from fedsim.data import Dataset

CHUNK = 250


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Dataset) -> float | None:
    """Top-1 accuracy on the data set's test part, in evaluation mode; None if it has no test part.

    The model computes in its own precision and on its own device.
    """
    if len(dataset.test_labels) == 0:
        return None
    reference = next(model.parameters())
    model.eval()
    correct = 0
    for pixels, labels in zip(dataset.test_images.split(CHUNK), dataset.test_labels.split(CHUNK), strict=True):
        scores = model(dataset.normalise(pixels).to(reference.device, reference.dtype))
        correct += int((scores.argmax(1).cpu() == labels).sum())
    return correct / len(dataset.test_labels)

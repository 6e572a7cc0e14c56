"""The labels of a batch as an unknown, where nobody knows them (DLG: Zhu, Liu, Han, NeurIPS 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.unknowns.base import Draw, Setting, Unknown, repeated


class SoftLabels(Unknown):
    """The labels as probabilities (N, B, K): the softmax of logits that may take any value, from N(0, 1); the same in
    each pass over the examples."""

    def __init__(self, setting: Setting) -> None:
        self.passes = setting.passes
        self.shape = (setting.images // self.passes, setting.classes)

    def owns(self, name: str) -> bool:
        return name == "labels"

    def start(self, draw: Draw) -> dict[str, Tensor]:
        return {"labels": torch.randn(self.shape, generator=draw("labels"))}

    def value(self, name: str, free: Tensor) -> Tensor:
        return repeated(free.softmax(dim=-1), self.passes)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient

    def project(self, name: str, value: Tensor) -> Tensor:
        return value

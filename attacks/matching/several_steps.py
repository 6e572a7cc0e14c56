"""What attacks on several local steps have in common: no order of epochs is needed, and each image is answered once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attacks.base import Reconstruction
from attacks.iterative import IterativeAttack
from attacks.passes import once
from attacks.unknowns import Setting


@dataclass(kw_only=True, eq=False)
class SeveralSteps(IterativeAttack):
    """Images, and whatever the model draws, of a client that took several steps in an order that nobody tells.

    Args:
        drop_rate: weight of the drop-rate prior.
        memory: how many past steps L-BFGS estimates the curvature from.
    """

    requires: ClassVar = {**IterativeAttack.requires, "labels": ("known", "inferred", "unknown")}
    ignores: ClassVar = (*IterativeAttack.ignores, "batch_order")
    adapts: ClassVar = {"dropout": "dropout_rate"}
    seeks_noise: ClassVar = True
    estimates_rates: ClassVar = True

    iterations: int = 2_000
    plateau: int = 100
    patience: int = 400
    drop_rate: float = 1e-4
    memory: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("memory")
        self._weights("drop_rate")

    def answered(self, answer: Reconstruction, setting: Setting) -> Reconstruction:
        return once(answer, setting.passes)

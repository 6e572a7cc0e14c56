"""The second version of the attack to compare with: as the first, with an L-BFGS that remembers more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from attacks.base import register
from attacks.standard_v1 import STAGES as FIRST
from attacks.standard_v1 import ReadoutDescent, StandardV1

MEMORY = 200
"""Past steps: with 50 a search by L-BFGS needs twice the iterations, or is not through."""

WHOLE = 1
"""An iteration that compares whole gradients counts as any other: on LeNet it takes twice as long, on a ViT as long."""

STAGES: dict[str, dict[str, Any]] = {**FIRST, "fedavg_inversion": {**FIRST["fedavg_inversion"], "memory": MEMORY}}
"""The searches in their order, with every option that they have."""


@dataclass(kw_only=True, eq=False)
class LongReadoutDescent(ReadoutDescent):
    """`readout_descent` with a longer memory."""

    memory: ClassVar[int] = MEMORY


@register("standard_v2")
class StandardV2(StandardV1):
    """As `standard_v1`, with searches by L-BFGS that remember 200 steps and may be four times as long.

    Closed forms, then every search that the model calls for; what explains the update best is the answer. Each search
    has at most 2e11 counted floating-point operations an image, and 1,000 iterations; there are no parameters, and the
    truth is never looked at. Within version 2 the answer to an update and a seed stays the same on the same machine and
    libraries.
    """

    paper: ClassVar[str] = StandardV1.paper
    exploits: ClassVar[str] = StandardV1.exploits
    under_dropout: ClassVar[str] = "closed forms first; then reads the masks, or looks for them four times as long"

    stages: ClassVar[Mapping[str, Mapping[str, Any]]] = STAGES
    whole: ClassVar[float] = WHOLE
    readout: ClassVar[type[ReadoutDescent]] = LongReadoutDescent

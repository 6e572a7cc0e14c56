"""More images a step, so that an update is a sum over more of them."""

from __future__ import annotations

from typing import Any

from defenses.base import Defense, register


@register("batch_size")
class BatchSize(Defense):
    """Train on batches of `size` images, whatever the federation's other clients take.

    Said to protect since the first attacks, which rebuilt batches of up to 8 (Zhu, Liu, Han, *Deep Leakage from
    Gradients*, NeurIPS 2019); batches of 48 and more were rebuilt since (Yin et al., CVPR 2021).

    An attacker who is told of the client's batch size knows all of it.

    Args:
        size: images of a step, at least 1.
    """

    told_by = "batch_size"

    def __init__(self, *, size: int = 8) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"batch_size: size = {size} is not a whole number of at least 1")
        self.size = size

    def local_overrides(self) -> dict[str, Any]:
        return {"batch_size": self.size}

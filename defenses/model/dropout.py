"""Dropout as a defense: every client draws masks that the server does not know."""

from __future__ import annotations

from typing import Any

from defenses.base import Defense, register


@register("dropout")
class DropoutDefense(Defense):
    """Set the rate of all dropout layers of the model.

    Said to prevent gradient inversion (Zheng, "Dropout against Deep Leakage from Gradients", 2021,
    arXiv 2108.11106); disputed by Scheliga et al., AAAI 2023 (arXiv 2208.06163).

    Args:
        p: the rate at which units are dropped, in [0, 1).
    """

    behind = True

    def __init__(self, *, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"dropout: p = {p} is not in [0, 1)")
        self.p = p

    def model_overrides(self) -> dict[str, Any]:
        return {"dropout": self.p}

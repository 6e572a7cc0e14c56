"""More steps before anything is sent, so that no single gradient is seen."""

from __future__ import annotations

from typing import Any

from defenses.base import Defense, register


@register("local_steps")
class LocalSteps(Defense):
    """Take `steps` optimizer steps, each on a fresh batch, and share the weights after the last one: federated
    averaging in place of shared gradients (McMahan et al., AISTATS 2017).

    Said to protect because an update is then a path and not a gradient; attacks simulate the path (Geiping et al.,
    NeurIPS 2020; Dimitrov et al., TMLR 2022).

    An attacker who is told of the local training knows all of it. More steps also take more images: compare with
    `batch_size` of as many.

    Args:
        steps: at least 1.
    """

    told_by = "local_training"

    def __init__(self, *, steps: int = 5) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"local_steps: steps = {steps} is not a whole number of at least 1")
        self.steps = steps

    def local_overrides(self) -> dict[str, Any]:
        shared = {"share": "weights"} if self.steps > 1 else {}
        return {"steps": self.steps, "epochs": None, "examples": None, **shared}

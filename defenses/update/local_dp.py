"""Local differential privacy by the Gaussian mechanism, as Flower's `LocalDpMod`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from defenses.base import Accounting, Defense, Tensors, Turn, register
from defenses.client.site import Gaussian
from defenses.client.spread import Spread
from defenses.mechanism import gaussian
from defenses.update.clip import Clip


@register("local_dp")
class LocalDP(Defense):
    """Clip the update to `clipping_norm`, and add the Gaussian noise of a privacy budget to every entry:

        std = sensitivity sqrt(2 ln(1.25 / delta)) / epsilon

    (Dwork and Roth, "The Algorithmic Foundations of Differential Privacy", 2014, theorem A.1), as Flower's `LocalDpMod`
    does on the client. That formula keeps its word for an epsilon of at most 1 and a sensitivity of at least twice the
    norm, which is how far two clipped updates can be apart; what is accounted for is what the noise is really worth.

    Args:
        clipping_norm: bound of the update's L2 norm, above 0.
        sensitivity: how far two updates that nobody may tell apart can differ, in L2 norm, at least 0.
        epsilon: the privacy budget of one update, above 0.
        delta: the probability with which the guarantee may fail, in (0, 1).
    """

    keeps_direction = True

    def __init__(
        self, *, clipping_norm: float = 1.0, sensitivity: float = 2.0, epsilon: float = 1.0, delta: float = 1e-5
    ) -> None:
        if not 0 < clipping_norm < math.inf:
            raise ValueError(f"local_dp: clipping_norm = {clipping_norm} is not a positive number")
        if not 0 <= sensitivity < math.inf:
            raise ValueError(f"local_dp: sensitivity = {sensitivity} is not a number of at least 0")
        if not 0 < epsilon < math.inf:
            raise ValueError(f"local_dp: epsilon = {epsilon} is not a positive number")
        if not 0 < delta < 1:
            raise ValueError(f"local_dp: delta = {delta} is not in (0, 1)")
        self.clip, self.delta = Clip(norm=clipping_norm), delta
        self.std = sensitivity * math.sqrt(2 * math.log(1.25 / delta)) / epsilon

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        noise = Gaussian()
        clipped = self.clip.on_update(update, turn=turn)
        return {name: value + self.std * turn.draw(name, noise, value) for name, value in clipped.items()}

    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        return Spread.alike(self.std, observed)

    def accounting(self, *, updates: int, steps: int, batch_size: int, examples: int) -> Accounting:
        """Of a client's updates together, whatever its data are: two clipped updates can be twice the norm apart."""
        noise = self.std / (2 * self.clip.norm)
        return gaussian(noise, times=updates, delta=self.delta, note="whatever the client's data are")

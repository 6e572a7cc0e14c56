"""Central differential privacy: a server that is trusted makes what it gives back private."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from defenses.base import Accounting, Defense, Tensors, Turn, register
from defenses.client.site import Gaussian
from defenses.clipping import clipped
from defenses.mechanism import gaussian


@register("central_dp")
class CentralDP(Defense):
    """The server clips each update that it received to `clipping_norm`, and adds Gaussian noise to their mean:

        std = noise_multiplier clipping_norm w,  w the largest weight of a client in the mean (1/n of n equal ones)

    McMahan, Ramage, Talwar, Zhang, *Learning Differentially Private Recurrent Language Models*, ICLR 2018 (arXiv
    1710.06963), as Flower's `DifferentialPrivacyServerSideFixedClipping` does it. The number of clients is that of the
    updates which arrived, where Flower takes a number that it is told; and the parameters that are trained are clipped
    and noisy, where Flower takes all arrays that are sent.

    **It keeps nothing from the server**, which has every update in full before it does any of this: whoever attacks
    there, attacks undefended clients. It protects a client from those who are given the global model: the other
    clients, and whoever uses it. Epsilon is of that.

    Args:
        noise_multiplier: noise over what a client can change the mean by, at least 0; 0 gives no privacy.
        clipping_norm: bound of a client's update in L2 norm, above 0.
        delta: the probability with which the guarantee may fail, in (0, 1).
    """

    checks_model = True

    def __init__(self, *, noise_multiplier: float = 1.0, clipping_norm: float = 1.0, delta: float = 1e-5) -> None:
        if not 0 <= noise_multiplier < math.inf:
            raise ValueError(f"central_dp: noise_multiplier = {noise_multiplier} is not a number of at least 0")
        if not 0 < clipping_norm < math.inf:
            raise ValueError(f"central_dp: clipping_norm = {clipping_norm} is not a positive number")
        if not 0 < delta < 1:
            raise ValueError(f"central_dp: delta = {delta} is not in (0, 1)")
        self.noise_multiplier, self.clipping_norm, self.delta = noise_multiplier, clipping_norm, delta

    def on_model(self, model: nn.Module) -> nn.Module:
        """The same model; raises ValueError naming the first module whose running statistics clients would send."""
        for path, module in model.named_modules():
            if isinstance(module, _NormBase) and module.track_running_stats:
                raise ValueError(
                    f"central_dp: layer {path!r} ({type(module).__name__}) keeps statistics of a client's images, "
                    "which are averaged without clipping and noise; use group or layer norm"
                )
        return model

    def on_received(self, update: Tensors) -> Tensors:
        return clipped(update, self.clipping_norm)

    def on_mean(self, mean: Tensors, weights: Sequence[float], *, turn: Turn) -> Tensors:
        std = self.noise_multiplier * self.clipping_norm * max(weights) / sum(weights)
        noise = Gaussian()
        return {name: value + std * turn.draw(name, noise, value) for name, value in mean.items()}

    def accounting(self, *, updates: int, steps: int, batch_size: int, examples: int) -> Accounting:
        """Of a client's updates together, whatever its data are, against all that a mean without them could be: no
        credit is taken for a client's chance not to be asked."""
        return gaussian(
            self.noise_multiplier,
            times=updates,
            delta=self.delta,
            note="of a client, towards those who are given the global model; towards the server there is none",
        )

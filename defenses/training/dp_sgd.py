"""DP-SGD: per-sample clipping and Gaussian noise, with the privacy that it buys."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from defenses.base import Accounting, Defense, PerExample, Tensors, Turn, register
from defenses.client.guarded import root
from defenses.client.site import STEP, Gaussian
from defenses.client.spread import Spread
from defenses.mechanism import poisson_sampled


@register("dp_sgd")
class DPSGD(Defense):
    """Clip each sample's gradient to `max_grad_norm`, sum, add N(0, (noise_multiplier * max_grad_norm)^2), and divide
    by the batch size (Abadi et al., "Deep Learning with Differential Privacy", CCS 2016).

    An example's norm is compared with the bound as Opacus does it, whose accountants say what the training spends. The
    batches of a simulated client are of fixed size, while the accountants' theorems are about Poisson sampling: epsilon
    is what the same training would spend if its batches were so sampled.

    Args:
        noise_multiplier: noise over clipping bound, at least 0; 0 gives no privacy (epsilon is infinite).
        max_grad_norm: bound of a sample's gradient in L2 norm, above 0.
        delta: the probability with which the guarantee may fail, in (0, 1).
    """

    checks_model = True

    def __init__(self, *, noise_multiplier: float = 1.0, max_grad_norm: float = 1.0, delta: float = 1e-5) -> None:
        if not 0 <= noise_multiplier < math.inf:
            raise ValueError(f"dp_sgd: noise_multiplier = {noise_multiplier} is not a number of at least 0")
        if not 0 < max_grad_norm < math.inf:
            raise ValueError(f"dp_sgd: max_grad_norm = {max_grad_norm} is not a positive number")
        if not 0 < delta < 1:
            raise ValueError(f"dp_sgd: delta = {delta} is not in (0, 1)")
        self.noise_multiplier = noise_multiplier
        self.max_grad_norm = max_grad_norm
        self.delta = delta

    def on_model(self, model: nn.Module) -> nn.Module:
        """The same model; raises ValueError naming the first module in which examples meet."""
        for path, module in model.named_modules():
            if isinstance(module, _MEETING) and (module.track_running_stats or isinstance(module, _BatchNorm)):
                raise ValueError(
                    f"dp_sgd: {_named(path, module)} mixes the examples of a batch, so that no example has a gradient "
                    "of its own; use group or layer norm"
                )
        return model

    def gradient(self, per_example: PerExample, *, turn: Turn) -> tuple[Tensors, Tensor]:
        """Of every parameter that is trained; one that the loss does not depend on gets noise like the others.

        Raises:
            ValueError: the examples' gradients cannot be taken of this model.
        """
        try:
            gradients, losses = per_example()
        except RuntimeError as fault:
            first = str(fault).strip().splitlines()[0]
            raise ValueError(
                f"dp_sgd: the gradients of single examples cannot be taken of this model: {first}"
            ) from fault
        noise = Gaussian(STEP)
        examples = len(losses)
        norms = torch.stack([value.reshape(examples, -1).square().sum(1) for value in gradients.values()]).sum(0)
        scales = self.max_grad_norm / (root(norms) + _OPACUS).clamp(min=self.max_grad_norm)
        deviation = self.noise_multiplier * self.max_grad_norm
        found: Tensors = {}
        for name, value in gradients.items():
            total = torch.einsum("b,b...->...", scales, value)
            if deviation:
                total = total + deviation * turn.draw(name, noise, total)
            found[name] = total / examples
        return found, losses.mean()

    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        """Of one step."""
        return Spread.alike(self.noise_multiplier * self.max_grad_norm * rate / examples, observed)

    def accounting(self, *, updates: int, steps: int, batch_size: int, examples: int) -> Accounting:
        """Of the local steps. A client with fewer examples than a batch takes each of them several times in a step."""
        times = -(-batch_size // examples)
        return poisson_sampled(
            self.noise_multiplier / times,
            rate=min(1.0, batch_size / examples),
            times=steps,
            delta=self.delta,
            note="as if Poisson-sampled",
        )


_MEETING = (_BatchNorm, _InstanceNorm)

_OPACUS = 1e-6
"""What Opacus adds to a norm before it divides by it."""


def _named(path: str, module: nn.Module) -> str:
    return f"layer {path!r} ({type(module).__name__})" if path else f"the model ({type(module).__name__})"

"""AdamW (Loshchilov and Hutter, ICLR 2019), as `torch.optim.AdamW`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from defenses.client.optimizers import Estimate, Tensors, register
from defenses.client.optimizers.adam import Adam, Moments


@register("adamw")
@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam, with a weight decay that is not divided by the gradients' size: `w <- (1 - learning_rate weight_decay) w`
    before each step."""

    weight_decay: float = 0.01

    def _moved(
        self, gradient: Tensors, state: Moments, parameters: Tensors, learning_rate: float, *, soft: bool
    ) -> tuple[dict[str, Tensor], Moments]:
        change, after = self._plain()._moved(gradient, state, parameters, learning_rate, soft=soft)
        decay = learning_rate * self.weight_decay
        return {name: value - decay * parameters[name] for name, value in change.items()}, after

    def first_estimate(
        self, change: Tensors, rounding: Tensors, parameters: Tensors, learning_rate: float
    ) -> dict[str, Estimate]:
        decay = learning_rate * self.weight_decay
        stepped = {name: value + decay * parameters[name].to(value) for name, value in change.items()}
        return self._plain().first_estimate(stepped, rounding, parameters, learning_rate)

    def _plain(self) -> Adam:
        return Adam(beta1=self.beta1, beta2=self.beta2, epsilon=self.epsilon)

"""DropConnect (Wan et al., ICML 2013): a Bernoulli mask on the weights of a linear or convolutional layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.client.site import STEP
from defenses.stochastic.layer import StochasticLayer


class DropConnect(StochasticLayer):
    """`W * m / (1 - p)` in the place of W, with m drawn from Bernoulli(1 - p), one draw a mini-batch.

    Shape:
        noise: like the weight, entries 0 or 1 when drawn, in [0, 1] when relaxed.
    """

    axes = STEP
    on_weights = True
    p: float
    weight: Tensor

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return x.new_empty(self.weight.shape).bernoulli_(1 - self.p, generator=generator)

    @abstractmethod
    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's output for an input and a weight."""

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.compute(x, self.weight * noise / (1 - self.p))

    def unperturbed(self, x: Tensor) -> Tensor:
        return self.compute(x, self.weight)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}"

    def project(self, noise: Tensor) -> Tensor:
        return noise.clamp(0, 1)

    def penalty(self, noise: Tensor) -> Tensor:
        """`|(1 - mean(m)) - p|`, as of dropout."""
        return ((1 - noise.mean()) - self.p).abs()

    def read(self, gradient: Mapping[str, Tensor], name: str, acts_on: torch.Size) -> Tensor | None:
        """A dropped weight's gradient is exactly zero; others' are not, unless their unit's delta or input is zero.

        A row or a column that is zero throughout says nothing of its weights: they stand at 1 - p, as at rest.
        """
        found = gradient.get(f"{name}.weight" if name else "weight")
        if found is None:
            return None
        passed = found != 0
        inputs = passed.any(dim=0, keepdim=True)
        units = passed.flatten(1).any(dim=1).view(-1, *[1] * (found.dim() - 1))
        if not passed.any():
            return None
        return torch.where(inputs & units, passed.to(found), 1 - self.p)


class DropConnectLinear(DropConnect, nn.Linear):
    """In the place of a linear layer, whose parameters it takes over."""

    def __init__(self, layer: nn.Linear, p: float) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.p = p
        self.weight, self.bias = layer.weight, layer.bias
        self.train(layer.training)

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)


class DropConnectConv2d(DropConnect, nn.Conv2d):
    """In the place of a convolution, whose parameters it takes over."""

    def __init__(self, layer: nn.Conv2d, p: float) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=layer.bias is not None,
            padding_mode=layer.padding_mode,
            device="meta",
        )
        self.p = p
        self.weight, self.bias = layer.weight, layer.bias
        self.train(layer.training)

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._conv_forward(x, weight, self.bias)

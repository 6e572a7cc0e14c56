"""Mixout (Lee, Cho, Kang, ICLR 2020): weights are mixed with those that training started from."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from defenses.stochastic.dropconnect import DropConnect, DropConnectConv2d, DropConnectLinear


class Mixout(DropConnect):
    """`W0 + m (W - W0) / (1 - p)` in the place of W, with m drawn from Bernoulli(1 - p), one draw a mini-batch.

    W0 is what was last loaded into the layer: of a client, and of an attacker's copy, the weight that the server sent.
    So in the first step of a round nothing is seen of the draw but in the gradient, whose entries it drops.
    """

    reference: Tensor

    def inject(self, x: Tensor, noise: Tensor) -> Tensor:
        moved = (self.weight - self.reference) * noise / (1 - self.p)
        return self.compute(x, self.reference + moved)

    def start(self) -> None:
        self.register_buffer("reference", self.weight.detach().clone(), persistent=False)
        self.register_load_state_dict_post_hook(_started)


class MixoutLinear(Mixout, DropConnectLinear):
    """In the place of a linear layer, whose parameters it takes over."""

    def __init__(self, layer: nn.Linear, p: float) -> None:
        super().__init__(layer, p)
        self.start()


class MixoutConv2d(Mixout, DropConnectConv2d):
    """In the place of a convolution, whose parameters it takes over."""

    def __init__(self, layer: nn.Conv2d, p: float) -> None:
        super().__init__(layer, p)
        self.start()


def _started(layer: Mixout, keys: Any) -> None:
    layer.reference = layer.weight.detach().clone()

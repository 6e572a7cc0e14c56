"""Images that are a function of other unknowns: what a decoder makes of latents, of weights of its own, or both.

A decoder is any module that maps latents (M, *latent_shape) to M images (M, C, H, W) of pixels in [0, 1], each for
itself; it says `latent_shape`, a tuple of whole numbers. It is run as in evaluation.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from attacks.base import NotApplicable
from attacks.facts import Facts
from attacks.priors import Prior
from attacks.seeds import generator_for
from attacks.unknowns import Draw, Guess, Setting, Unknown

LATENT = "latent"

WEIGHTS = "weights."


class Decoder(nn.Module):
    """What an attack takes for a decoder; a module need not derive from it.

    Shape:
        latents (M, *latent_shape) -> pixels in [0, 1] (M, C, H, W)
    """

    latent_shape: tuple[int, ...]


def check_decoder(decoder: object) -> None:
    """Raise ValueError, in one line, unless it is a module that says what latents it takes."""
    if not isinstance(decoder, nn.Module):
        raise ValueError(f"decoder = {decoder!r} is no torch.nn.Module")
    shape = getattr(decoder, "latent_shape", None)
    if not (isinstance(shape, tuple) and shape and all(isinstance(n, int) and n > 0 for n in shape)):
        raise ValueError(f"decoder.latent_shape = {shape!r}; accepted: a tuple of whole numbers, as (64,)")


def check_images(decoder: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Raise ValueError, in one line, unless a decoder makes images of this shape, of pixels in [0, 1]."""
    check_decoder(decoder)
    like = next(decoder.parameters(), torch.empty(()))
    latents = torch.zeros(2, *_latent_shape(decoder), dtype=like.dtype, device=like.device)
    with torch.no_grad(), _evaluating(decoder):
        made = decoder(latents)
    if not isinstance(made, Tensor) or made.shape != (2, *input_shape):
        found = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
        raise ValueError(
            f"the decoder made {found} of two latents {tuple(latents.shape)}; accepted: {(2, *input_shape)}, as the "
            "data has images"
        )
    if not (made.min() >= 0 and made.max() <= 1):
        found = f"{made.min():.3g} to {made.max():.3g}"
        raise ValueError(f"the decoder made pixels of {found}; accepted: 0 to 1, before any normalisation")


class Generated(Unknown):
    """The batch as a decoder makes it, with latents from N(0, 1), each image's its own.

    Args:
        decoder: left as it is.
        searched: whether the latents are looked for; else they are drawn once, the same for all problems.
        weights: whether each image has weights of its own, which are looked for: at first those of the decoder; or,
            where it is untrained, `fresh` ones.
        pace: by how much a weight moves where a latent moves by 1.
        fresh: whether weights are drawn anew for each image: of all that has more than one dimension from
            N(0, 2 / inputs) (He et al., ICCV 2015), the rest as it is.

    Raises:
        NotApplicable: its images have another shape than the client's.
    """

    def __init__(
        self,
        setting: Setting,
        decoder: nn.Module,
        *,
        searched: bool = True,
        weights: bool = False,
        pace: float = 1.0,
        fresh: bool = False,
    ) -> None:
        like = next(setting.model.parameters())
        self.decoder = _copy(decoder).to(like.device, like.dtype)
        try:
            check_images(self.decoder, setting.input_shape)
        except ValueError as fault:
            raise NotApplicable(str(fault)) from None
        self.searched, self.weights, self.pace, self.fresh = searched, weights, pace, fresh
        self.images = setting.images
        self.latent_shape = _latent_shape(self.decoder)
        self.base = {name: value.detach() for name, value in self.decoder.named_parameters()}
        self.buffers = dict(self.decoder.named_buffers())
        self.code = torch.randn(self.latent_shape, generator=generator_for(0, "code")).to(like)
        self.mean, self.std = (torch.tensor(value).view(-1, 1, 1).to(like) for value in (setting.mean, setting.std))

    def still(self) -> Generated:
        """The same with the decoder's weights as they are."""
        found = object.__new__(Generated)
        found.__dict__.update(self.__dict__)
        found.weights = False
        return found

    def owns(self, name: str) -> bool:
        return name == LATENT or (self.weights and name.startswith(WEIGHTS))

    def start(self, draw: Draw) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if self.searched:
            found[LATENT] = torch.randn(self.images, *self.latent_shape, generator=draw(LATENT))
        if self.weights:
            generator = draw(WEIGHTS)
            for name, base in self.base.items():
                moved = torch.zeros(self.images, *base.shape)
                if self.fresh and base.dim() > 1:
                    drawn = torch.randn(moved.shape, generator=generator) * (2 / base[0].numel()) ** 0.5
                    moved = (drawn - base.cpu().float()) / self.pace
                found[WEIGHTS + name] = moved
        return found

    def values(self, free: Guess) -> dict[str, Tensor]:
        problems = len(next(iter(free.values())))
        latents = free[LATENT] if self.searched else self.code.expand(problems, self.images, *self.latent_shape)
        latents = latents.flatten(0, 1)
        if self.weights:
            moved = {n: base + self.pace * free[WEIGHTS + n].flatten(0, 1) for n, base in self.base.items()}
            pixels = vmap(self._one)(moved, latents)
        else:
            pixels = self.decoder(latents)
        return {"images": ((pixels - self.mean) / self.std).unflatten(0, (problems, self.images))}

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient

    def project(self, name: str, value: Tensor) -> Tensor:
        return value

    def _one(self, weights: Mapping[str, Tensor], latent: Tensor) -> Tensor:
        """One image (C, H, W) of weights of its own."""
        made: Tensor = functional_call(self.decoder, {**weights, **self.buffers}, (latent[None],))
        return made[0]


@dataclass(frozen=True)
class LatentNorm(Prior):
    """Latents are as long as those that the decoder was trained on, `weight * (|z|^2 / k - 1)^2` of k numbers from
    N(0, 1) each, the mean over the images (GGL: Li et al., CVPR 2022).

    Shape:
        guess["latent"]: (N, B, *latent_shape).
    """

    weight: float

    def __call__(self, guess: Guess, facts: Facts) -> Tensor:
        return self.weight * (guess[LATENT].flatten(2).square().mean(2) - 1).square().mean(1)


def _latent_shape(decoder: nn.Module) -> tuple[int, ...]:
    shape: Any = decoder.latent_shape
    return tuple(shape)


def _copy(decoder: nn.Module) -> nn.Module:
    found = copy.deepcopy(decoder).eval()
    for parameter in found.parameters():
        parameter.requires_grad_(False)
    return found


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    mode = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(mode)

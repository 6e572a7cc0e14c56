"""Small vision transformers to attack, bundled and written as a user would write them; and one image of theirs."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_victims import observe
from torch import Tensor, nn

import attacks
from attacks import NotApplicable, Observation, Reconstruction, ThreatModel
from defenses.stochastic import Dropout
from fedsim import models

STD = 0.5


def tiny_vit(rate: float) -> nn.Module:
    """The bundled ViT for images of (1, 8, 8) and 4 classes: 16 patches in 32 dimensions, tokens that begin small."""
    spec = {"name": "vit", "patch": 2, "depth": 2, "width": 32, "heads": 4, "mlp": 32}
    return models.build({**spec, "dropout": rate, "token_std": 0.02}, input_shape=(1, 8, 8), classes=4)


class OwnViT(nn.Module):
    """Conv2d patch embedding; class token and positions as bare parameters, used in forward; PyTorch's encoder.

    Args:
        pool: `class` reads the class token, `mean` has none and averages the tokens.
        between: what stands between the patch embedding and the positions.
        after: what stands between the positions and the encoder.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int, int] = (3, 12, 8),
        patch: tuple[int, int] = (3, 4),
        width: int = 24,
        classes: int = 4,
        rate: float = 0.0,
        pool: str = "class",
        bias: bool = True,
        between: nn.Module | None = None,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        channels, height, breadth = shape
        count = (height // patch[0]) * (breadth // patch[1])
        self.proj = nn.Conv2d(channels, width, patch, stride=patch, bias=bias)
        self.cls = nn.Parameter(torch.randn(1, 1, width)) if pool == "class" else None
        self.pos_embed = nn.Parameter(0.1 * torch.randn(1, count + (pool == "class"), width))
        self.between = between or nn.Identity()
        self.after = after or nn.Dropout(rate)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 4, 32, rate, batch_first=True, norm_first=True),
            2,
            enable_nested_tensor=False,
        )
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.between(self.proj(images).flatten(2).transpose(1, 2))
        if self.cls is not None:
            tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.encoder(self.after(tokens + self.pos_embed))
        return self.fc(tokens.mean(1) if self.cls is None else tokens[:, 0])


class AprilViT(nn.Module):
    """The architecture of APRIL's closed form: positions, then self-attention, without norm or shortcut in between.

    Args:
        skip: adds the shortcut around the attention that breaks it.
        norm: normalises before the attention, which breaks it too.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int, int] = (1, 8, 8),
        patch: int = 2,
        width: int = 32,
        classes: int = 4,
        rate: float = 0.0,
        fused: bool = False,
        skip: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.patch, self.skip, self.heads = patch, skip, 4
        channels, height, breadth = shape
        self.embed = nn.Linear(channels * patch * patch, width)
        self.positions = nn.Parameter(0.1 * torch.randn((height // patch) * (breadth // patch), width))
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.qkv = nn.ModuleList([nn.Linear(width, 3 * width)] if fused else [nn.Linear(width, width) for _ in "qkv"])
        self.drop = Dropout(rate)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), Dropout(rate))
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        b, p = len(images), self.patch
        patches = nn.functional.unfold(images, p, stride=p).transpose(1, 2)
        z = self.embed(patches) + self.positions
        mixed = torch.cat([layer(self.norm(z)) for layer in self.qkv], dim=-1)
        q, k, v = mixed.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attention = self.drop((q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)) @ v
        tokens = attention.transpose(1, 2).reshape(b, z.shape[1], -1)
        tokens = tokens + z if self.skip else tokens
        return self.head((tokens + self.mlp(tokens)).mean(1))


def victim(shape: tuple[int, int, int], count: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images with pixels in [0, 1], normalised with mean and deviation 0.5, and labels of four classes."""
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return images, torch.arange(count) % 4


def shallow(rate: float, shape: tuple[int, int, int], *, seed: int = 0) -> nn.Module:
    """The bundled ViT with one block, and tokens that begin as small as where ViTs are trained."""
    spec = {"name": "vit", "depth": 1, "token_std": 0.02, "dropout": rate}
    return models.build(spec, input_shape=shape, classes=4, seed=seed)


def seen(model: nn.Module, images: Tensor, labels: Tensor, **fields: Any) -> Observation:
    channels = images.shape[1]
    return observe(model, images, labels, mean=(STD,) * channels, std=(STD,) * channels, classes=4, **fields)


def solve(observation: Observation, model: nn.Module, *, ridge: float | None = None, **granted: Any) -> Reconstruction:
    attack = attacks.create("patch_embedding", ridge=ridge)
    return attack(observation, ThreatModel(**granted), copy.deepcopy(model))


def declined(observation: Observation, model: nn.Module, **granted: Any) -> str:
    with pytest.raises(NotApplicable) as caught:
        solve(observation, model, **granted)
    return str(caught.value)


def psnr(result: Reconstruction, images: Tensor) -> float:
    error = (STD * (result.images.double() - images.double())).square().mean()
    return -10 * math.log10(max(float(error), 1e-30))


def changed(observation: Observation, change: Any) -> Observation:
    """The observation with `change(name, tensor)` in place of each tensor of its update."""
    return replace(observation, update={name: change(name, value) for name, value in observation.update.items()})


def noisy(observation: Observation, level: float) -> Observation:
    generator = torch.Generator().manual_seed(0)
    total = math.sqrt(sum(float(value.square().sum()) for value in observation.update.values()))
    spread = level * total / math.sqrt(sum(value.numel() for value in observation.update.values()))
    return changed(observation, lambda _, value: value + spread * torch.randn(value.shape, generator=generator))

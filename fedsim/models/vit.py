"""A small vision transformer with explicit softmax attention.

Fused attention has no double backward, which every gradient matching attack needs, and hides its dropout. The class
token and the positions are modules of their own: Opacus computes per-sample gradients module by module.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.stochastic import Dropout
from fedsim.models.checks import positive


class ClassToken(nn.Module):
    """Puts a learned token before the others: (B, N, D) -> (B, 1 + N, D)."""

    def __init__(self, width: int, *, std: float) -> None:
        super().__init__()
        self.token = nn.Parameter(std * torch.randn(width))

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(tokens), 1, -1), tokens], dim=1)


class Positions(nn.Module):
    """Adds a learned embedding to each position: (B, N, D) -> (B, N, D)."""

    def __init__(self, length: int, width: int, *, std: float) -> None:
        super().__init__()
        self.embedding = nn.Parameter(std * torch.randn(length, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.embedding


class Attention(nn.Module):
    """Multi-head self-attention with dropout on the probabilities and on the output: (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_dropout = Dropout(0.0)
        self.projection = nn.Linear(width, width)
        self.dropout = Dropout(0.0)

    def forward(self, tokens: Tensor) -> Tensor:
        b, n, d = tokens.shape
        q, k, v = self.qkv(tokens).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        probabilities = (q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(-1)
        mixed = self.attention_dropout(probabilities) @ v
        return self.dropout(self.projection(mixed.transpose(1, 2).reshape(b, n, d)))


class FeedForward(nn.Module):
    """Linear, GELU, dropout, linear, dropout: (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, mlp: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, mlp)
        self.dropout1 = Dropout(0.0)
        self.linear2 = nn.Linear(mlp, width)
        self.dropout2 = Dropout(0.0)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout1(F.gelu(self.linear1(tokens)))))


class EncoderBlock(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual connection: (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, mlp)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.feed_forward(self.norm2(tokens))


class ViT(nn.Module):
    """Vision transformer (Dosovitskiy et al., ICLR 2021); the defaults are the ViT of Scheliga et al., AAAI 2023.

    Linear patch embedding, class token, learned positions, dropout; pre-norm encoder; linear head on the class token.

    Args:
        patch: side of a square patch in pixels; it must divide the image's height and width.
        depth: encoder blocks.
        width: dimensions of a token.
        heads: attention heads; they must divide the width.
        mlp: units of the hidden layer in each block.
        token_std: standard deviation of the initial class token and positions. 1, as in that paper's experiments, makes
            every position distinct from the start; 0.02 is usual where a ViT is trained.

    Shape:
        images (B, C, H, W) -> logits (B, classes)
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        classes: int,
        *,
        patch: int = 4,
        depth: int = 4,
        width: int = 256,
        heads: int = 16,
        mlp: int = 256,
        token_std: float = 1.0,
    ) -> None:
        super().__init__()
        positive(patch=patch, depth=depth, width=width, heads=heads, mlp=mlp)
        channels, height, breadth = input_shape
        if height % patch or breadth % patch:
            raise ValueError(f"patch = {patch} does not divide images of {height} x {breadth} pixels")
        if not token_std >= 0:
            raise ValueError(f"token_std = {token_std!r} is not a number of at least 0")
        if width % heads:
            raise ValueError(f"heads = {heads} does not divide width = {width}")
        self.patch = patch
        self.patch_embedding = nn.Linear(channels * patch * patch, width)
        self.class_token = ClassToken(width, std=token_std)
        self.positions = Positions(1 + (height // patch) * (breadth // patch), width, std=token_std)
        self.dropout = Dropout(0.0)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads, mlp) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def patches(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> patches (B, N, C * patch * patch), row by row, each flattened as (C, y, x)."""
        b, c, h, w = images.shape
        grid = images.reshape(b, c, h // self.patch, self.patch, w // self.patch, self.patch)
        return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.class_token(self.patch_embedding(self.patches(images)))
        tokens = self.blocks(self.dropout(self.positions(tokens)))
        return self.head(self.norm(tokens)[:, 0])

"""ViT-B/16: the vision transformer at its common size, for images of 224 pixels."""

from __future__ import annotations

from fedsim.models.vit import ViT


class ViTB16(ViT):
    """ViT-B/16 (Dosovitskiy et al., ICLR 2021): 86 million parameters at 224 pixels and 1000 classes.

    Arguments and shapes as in `ViT`.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        classes: int,
        *,
        patch: int = 16,
        depth: int = 12,
        width: int = 768,
        heads: int = 12,
        mlp: int = 3072,
        token_std: float = 0.02,
    ) -> None:
        super().__init__(
            input_shape, classes, patch=patch, depth=depth, width=width, heads=heads, mlp=mlp, token_std=token_std
        )

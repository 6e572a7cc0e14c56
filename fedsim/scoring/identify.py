"""Would the reconstruction identify the client's image? Beside PSNR, which means little where a normalisation hides
brightness, or where a blurred guess is near to everything.

An image is *identified* if it is nearer to its reconstruction than any of up to 1,000 candidates: other images of the
same data set, by one permutation that neither the scenario's seed nor the attack changes, so that all rows of a data
set compare. A guess that knows nothing is right once in a thousand times. Nearness is the squared difference of pixels,
and of features, for which brightness counts less: those of LPIPS' backbone (`fedsim.scoring.lpips`).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from fedsim.data.dataset import Dataset
from fedsim.random import rng_for
from fedsim.scoring.lpips import layout

MOST = 1_000
CHUNK = 32


class Candidates:
    """Up to `MOST` images of a data set; what is computed of them is computed once.

    Args:
        images: uint8 (K, C, H, W).
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self._known = [_digest(image) for image in images]
        self._features: Tensor | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> Candidates:
        order = rng_for(0, "candidates").permutation(len(dataset.train_images))[:MOST]
        return cls(dataset.train_images[torch.from_numpy(order)])

    def identified(self, original: Tensor, nearest: Tensor, reconstruction: Tensor) -> list[bool | None]:
        """Whether each image is nearer to its reconstruction, in pixels, than every candidate; None without any.

        Args:
            original: uint8 (N, C, H, W): candidates equal to it are no others.
            nearest: (N, C, H, W) pixels in [0, 1], of which it is asked: the original, or a view of it.
            reconstruction: (N, C, H, W) pixels in [0, 1].
        """
        flat = self.images.flatten(1).float() / 255
        return self._nearer(flat, original, nearest.flatten(1).float(), reconstruction.flatten(1).float())

    def identified_features(self, original: Tensor, nearest: Tensor, reconstruction: Tensor) -> list[bool | None]:
        """The same in features."""
        if self._features is None:
            self._features = torch.cat([layout(part / 255) for part in self.images.split(CHUNK)])
        return self._nearer(self._features, original, layout(nearest), layout(reconstruction))

    def _nearer(
        self, candidates: Tensor, original: Tensor, nearest: Tensor, reconstruction: Tensor
    ) -> list[bool | None]:
        answers: list[bool | None] = []
        for image, own, seen in zip(original, nearest, reconstruction):
            digest = _digest(image)
            others = torch.tensor([known != digest for known in self._known])
            if not others.any():
                answers.append(None)
                continue
            theirs = (candidates[others] - seen).square().sum(1).min()
            answers.append(bool((own - seen).square().sum() < theirs))
        return answers


@lru_cache(maxsize=4)
def candidates_of(dataset: Dataset) -> Candidates:
    """Those of a data set. The last few are kept in memory, with what was computed of them."""
    return Candidates.of(dataset)


def _digest(image: Tensor) -> bytes:
    return hashlib.sha256(image.contiguous().cpu().numpy().tobytes()).digest()

"""Train on turned copies of each image beside it, so that no neuron is activated by one image alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.base import Defense, Turn, register

ADDED = {
    "rotations": ("turned 1", "turned 2", "turned 3"),
    "flips": ("flipped 1", "flipped 2"),
    "shear": ("sheared",),
    "rotations_and_shear": ("turned 1", "turned 2", "turned 3", "sheared"),
}

SHEAR = 0.55
"""How far a row moves for each row that it is above the middle: about 29 degrees."""


@register("oasis")
class Oasis(Defense):
    """Add to every image of a mini-batch copies of it, with its label: turned by 90, 180 and 270 degrees, flipped in
    both ways, or sheared.

    Jeter, Nguyen, Alharbi, Thai, *OASIS: Offsetting Active Reconstruction Attacks in Federated Learning*, ICDCS 2024
    (arXiv 2311.13739). A linear layer's gradient gives an image away where a neuron is activated by it alone; the
    copies of one activate the same neurons, and what is read off is their mean. Only the abstract could be read here:
    which copies there are is as it is described elsewhere, the size of the shear is ours.

    Nothing is drawn: an attacker who knows the defense replays it. A reconstruction of a copy is one of the image, and
    is scored so (`shows`).

    Args:
        add: `rotations` (of square images), `flips`, `shear` or `rotations_and_shear`.
    """

    shows = True

    def __init__(self, *, add: str = "rotations") -> None:
        if add not in ADDED:
            raise ValueError(f"oasis: add = {add} is not one of {', '.join(ADDED)}")
        self.add = add

    @property
    def grows(self) -> int:
        return 1 + len(ADDED[self.add])

    def on_batch(self, images: Tensor, labels: Tensor, *, turn: Turn) -> tuple[Tensor, Tensor]:
        height, width = images.shape[-2:]
        if height != width and self.add.startswith("rotations"):
            raise ValueError(f"oasis: add = {self.add} is not for images of {height} x {width}, which are not square")
        copies = [_copy(images, how) for how in ADDED[self.add]]
        return torch.cat([images, *copies]), torch.cat([labels] * self.grows)


def _copy(images: Tensor, how: str) -> Tensor:
    what, _, number = how.partition(" ")
    if what == "turned":
        return torch.rot90(images, int(number), (-2, -1))
    if what == "flipped":
        return images.flip(-int(number))  # the columns, the rows
    rows = torch.tensor([[1.0, SHEAR, 0.0], [0.0, 1.0, 0.0]]).to(images).expand(len(images), 2, 3)
    places = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)

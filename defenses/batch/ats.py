"""Train on images that were transformed by a policy which hinders their reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.base import Defense, Turn, register
from defenses.client.site import EXAMPLE, Site

TRANSFORMATIONS = {
    1: ("contrast", 6),
    3: ("left", 9),
    7: ("up", 2),
    18: ("contrast", 7),
    21: ("left", 5),
    24: ("up", 3),
    42: ("up", 3),
    43: ("up", 3),
    48: ("up", 3),
}
"""Of the 50 of the published code, by their numbers there, those that need not know which number is black: what is
done, and its magnitude on a scale of 0 to 9."""

SHIFT, CONTRAST = 150 / 331, 0.5
"""At magnitude 9: by how much of its side an image is shifted, and how much its contrast is changed."""


@register("ats")
class ATS(Defense):
    """Shift each image and change its contrast, in the order that a policy says.

    Gao, Guo, Zhang, Qiu, Wen, Liu, *Privacy-preserving Collaborative Learning with Automatic Transformation Search*,
    CVPR 2021 (arXiv 2011.12505): policies of three transformations under which gradient inversion is hard, found by a
    search which is not built here. The default is the published one for CIFAR-100 and ResNet20, of each image one of
    two policies at random: 3-1-7, shifts by 45 % to the side and by 10 % up or down with the contrast changed by a
    third between them; and 43-18-18, a shift by 15 % and the contrast changed twice by 39 %. Directions are random, and
    so is whether contrast grows or falls.

    After the published code, as its paper could not be read here. Ours are that contrast is changed about the mean of
    the normalised image and nothing is cut off at black and white, and that a shift uncovers the mean colour instead of
    black: a client's step does not know which numbers those are. That is why other transformations are refused.

    As with `augmentation`, an attacker rebuilds the images that were trained on; an image that was shifted, or whose
    contrast was changed, is one of the image, and is scored so (`shows`).

    Args:
        policy: numbers of transformations joined by `-`, policies of equal length joined by `+`.
    """

    shows = True
    one_to_one = True

    def __init__(self, *, policy: str = "3-1-7+43-18-18") -> None:
        numbers = [str(number) for number in TRANSFORMATIONS]
        parts = [part.split("-") for part in policy.split("+")] if isinstance(policy, str) else []
        if not parts or any(number not in numbers for part in parts for number in part):
            raise ValueError(f"ats: policy = {policy} is not made of {', '.join(numbers)}, as 3-1-7+43-18-18")
        if len({len(part) for part in parts}) > 1:
            raise ValueError(f"ats: policy = {policy} is not of policies of equal length")
        self.policy = policy
        self._policies = [[TRANSFORMATIONS[int(number)] for number in part] for part in parts]

    def on_batch(self, images: Tensor, labels: Tensor, *, turn: Turn) -> tuple[Tensor, Tensor]:
        site = Directions(len(self._policies), len(self._policies[0]))
        chosen, *directions = turn.draw("directions", site, images).unbind(1)
        found = images
        for number, policy in enumerate(self._policies):
            transformed = images
            for (what, magnitude), direction in zip(policy, directions):
                transformed = _transformed(transformed, what, magnitude / 9, direction)
            found = torch.where((chosen == number)[:, None, None, None], transformed, found)
        return found, labels


def _transformed(images: Tensor, what: str, share: float, direction: Tensor) -> Tensor:
    """direction: (B,) -1 or 1; 0 leaves an image as it is."""
    if what == "contrast":
        factor = (1 + CONTRAST * share * direction.to(images.dtype))[:, None, None, None]
        mean = images.mean((1, 2, 3), keepdim=True)
        return mean + factor * (images - mean)
    turned = images.transpose(2, 3) if what == "up" else images
    side = turned.shape[3]
    places = torch.arange(side, device=images.device) + round(SHIFT * share * side) * direction[:, None]
    index = places.clamp(0, side - 1)[:, None, None, :].expand(turned.shape)
    inside = ((places >= 0) & (places < side))[:, None, None, :]
    shifted = torch.where(inside, turned.gather(3, index), 0.0)
    return shifted.transpose(2, 3) if what == "up" else shifted


class Directions(Site):
    """Of each image the number of its policy, and the direction of each transformation, -1 or 1: int64 (B, 1 + k)."""

    axes = EXAMPLE
    structural = False  # a transformed image fits the update as well as the image that was transformed

    def __init__(self, policies: int, length: int) -> None:
        self.policies, self.length = policies, length

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        device = x.device if generator is None else generator.device
        policy = torch.randint(0, self.policies, (len(x), 1), generator=generator, device=device)
        signs = 2 * torch.randint(0, 2, (len(x), self.length), generator=generator, device=device) - 1
        return torch.cat([policy, signs], dim=1).to(x.device)

    def rest(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 1 + self.length, dtype=torch.int64, device=x.device)

"""Train on mixtures of several images whose pixels have random signs."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.base import Defense, Deployment, Turn, register
from defenses.client.site import EXAMPLE, Site


@register("instahide")
class InstaHide(Defense):
    """Mix each image of a mini-batch with others of it, their labels alike, and flip the signs of random pixels:

        x = s (w_1 x_i + w_2 x_j + ...),  y = w_1 y_i + w_2 y_j + ...,  s in {-1, 1}, one a pixel and channel

    Huang, Song, Li, Arora, *InstaHide: Instance-hiding Schemes for Private Distributed Learning*, ICML 2020
    (arXiv 2010.02772), as it mixes inside of one data set: `k` images, at weights drawn uniformly among those that add
    up to 1 with none above `most`, 4 and 0.65 in the paper, whose pixels are normalised to mean 0 as here. There the
    partners are drawn from the whole data set (or, with public images, from theirs, whose labels do not count); here
    from the mini-batch, all that a client's step has. That needs no more than permutations of it. Neither the
    paper nor its code could be read here: it is built from what is known of them.

    What is trained on shows no image, and an attacker who replays the client rebuilds that. Carlini et al., *Is Private
    Learning Possible with Instance Encoding?*, IEEE S&P 2021 (arXiv 2011.05315), undo it by the sizes of the pixels of
    many encodings of the same images; nobody here does, so that no attack takes it into account (`beyond_replay`). Of a
    linear layer on the pixels the attacker has the encodings all the same: `psnr_trained`.

    Args:
        k: images in a mixture, at least 1; of one the signs are flipped alone.
        most: the largest weight, above 1 / k and at most 1.
    """

    beyond_replay = True

    def __init__(self, *, k: int = 4, most: float = 0.65) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"instahide: k = {k} is not a whole number of at least 1")
        if not (1 / k < most <= 1 or k == most == 1):
            raise ValueError(f"instahide: most = {most} is not in (1 / k, 1], with k = {k}")
        self.k, self.most = k, most

    def on_batch(self, images: Tensor, labels: Tensor, *, turn: Turn) -> tuple[Tensor, Tensor]:
        weights = turn.draw("weights", Weights(self.k, self.most), images)
        partners = turn.draw("partners", Partners(self.k - 1), images)
        signs = turn.draw("signs", Signs(), images)
        targets = turn.one_hot(labels, images.dtype)
        places = torch.cat([torch.arange(len(images), device=images.device)[:, None], partners], dim=1)
        mixed = (weights[:, :, None, None, None] * images[places]).sum(1)
        return signs * mixed, (weights[:, :, None] * targets[places]).sum(1)

    def refuses(self, deployment: Deployment) -> str | None:
        if self.k > 1 and deployment.batch_size < 2:
            return "instahide: an image has nothing to be mixed with in a batch of 1; it needs batches of 2 or more"
        return None


class Weights(Site):
    """What is each image's share in its mixture, its own first: (B, k), which add up to 1."""

    axes = EXAMPLE
    structural = False  # under signs that nobody knows there is nothing that they could be looked for by

    def __init__(self, k: int, most: float) -> None:
        self.k, self.most = k, most

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        device = x.device if generator is None else generator.device
        found = torch.empty(0, self.k, dtype=torch.float64, device=device)
        while len(found) < len(x):
            parts = torch.empty(8 * len(x), self.k, dtype=torch.float64, device=device)
            parts.exponential_(generator=generator)
            drawn = parts / parts.sum(1, keepdim=True)  # uniform among those that add up to 1
            found = torch.cat([found, drawn[drawn.amax(1) <= self.most]])
        return found[: len(x)].to(x)

    def rest(self, x: Tensor) -> Tensor:
        return (torch.arange(self.k, device=x.device) == 0).to(x.dtype).expand(len(x), self.k)


class Partners(Site):
    """Which images of the mini-batch each is mixed with: their places, int64 (B, others), permutations of all."""

    axes = EXAMPLE
    structural = False

    def __init__(self, others: int) -> None:
        self.others = others

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        device = x.device if generator is None else generator.device
        orders = [torch.randperm(len(x), generator=generator, device=device) for _ in range(self.others)]
        empty = torch.empty(len(x), 0, dtype=torch.int64, device=device)
        return torch.cat([empty, *(order[:, None] for order in orders)], dim=1).to(x.device)

    def rest(self, x: Tensor) -> Tensor:
        return torch.arange(len(x), device=x.device)[:, None].expand(len(x), self.others)


class Signs(Site):
    """The sign of each entry of an image, (B, C, H, W)."""

    axes = EXAMPLE
    structural = False  # one a pixel fits any image

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        device = x.device if generator is None else generator.device
        return (2 * torch.randint(0, 2, x.shape, generator=generator, device=device) - 1).to(x)

    def rest(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)

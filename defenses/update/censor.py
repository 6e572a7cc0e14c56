"""Send a random update that is orthogonal to the client's own and does the least harm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.site import Gaussian


@register("censor")
class Censor(Defense):
    """Send in the place of each parameter's update a random one, orthogonal to it and as long, of several the one that
    does least harm.

    Of the update g and r from N(0, 1) it sends

        u = r - (<r, g> / <g, g>) g,  scaled to |g|

    and of `trials` such updates the one after which the client's loss is lowest. A parameter of a single entry is sent
    as 0: nothing is orthogonal to it.

    Zhang et al., *CENSOR: Defense Against Gradient Inversion via Orthogonal Subspace Bayesian Sampling*, NDSS 2025
    (arXiv 2501.15718). Its published code differs: r has length 1, <r, g> is divided by |g|, so that u is orthogonal to
    g only where |g| = 1; and g itself is sent where no trial lowers the loss. Both take the client's own step here.

    An update that is orthogonal to the right one still has its lengths, one a parameter. An attacker who knows the
    defense compares directions all the same: nothing better is known.

    Args:
        trials: at least 1.
        as_published: do what the published code does.
    """

    def __init__(self, *, trials: int = 20, as_published: bool = False) -> None:
        if trials < 1:
            raise ValueError(f"censor: trials = {trials} is not a whole number of at least 1")
        self.trials, self.as_published = trials, as_published

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        client, normal = turn.client, Gaussian()
        best, least = dict(update), client.loss(client.weights)
        for trial in range(self.trials):
            found = {n: self._other(g, turn.draw(f"{n}:{trial}", normal, g)) for n, g in update.items()}
            loss = client.loss(client.after(found))
            better = loss < least
            if trial == 0 and not self.as_published:
                better = torch.ones_like(better)
            best = {name: torch.where(better, value, best[name]) for name, value in found.items()}
            least = torch.where(better, loss, least)
        return best

    def surrogate(self, update: Tensors, *, turn: Turn) -> Tensors:
        return update

    def _other(self, g: Tensor, r: Tensor) -> Tensor:
        tiny = torch.finfo(g.dtype).tiny
        inner, squares = (r * g).sum(), g.square().sum().clamp_min(tiny)
        if self.as_published:
            length = r.norm().clamp_min(tiny)
            u = r / length - inner / length / squares.sqrt() * g
        else:
            u = r - inner / squares * g
        left = u.norm()
        rounding = math.sqrt(torch.finfo(g.dtype).eps) * r.norm()
        return torch.where(left > (0 if self.as_published else rounding), u / left.clamp_min(tiny) * g.norm(), 0)

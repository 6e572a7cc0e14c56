"""Round the update to a few levels, at random, so that it is right on average."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.site import Site
from defenses.client.spread import Spread

SHARES = 8
"""The least level that was sent may be up to this multiple of a step, where a tensor has few entries."""

FORETOLD = 0.3
"""No entry is taken to be foretold to less than this share of the average variance: a simulated update is not exact."""


@register("quantization")
class Quantization(Defense):
    """QSGD (Alistarh et al., NeurIPS 2017): each tensor's entries become `|u| sign(u_i) k / levels`, k a whole number,
    rounded up or down at random so that their mean is the entry itself; |u| is the tensor's L2 norm.

    An attacker who knows of it knows the norm, and that each entry lies within a step of what was sent, the nearer the
    likelier: that is what an attack matches (`compare`).

    Args:
        levels: the number of levels above zero, at least 1.
    """

    keeps_direction = True

    def __init__(self, *, levels: int = 16) -> None:
        if levels < 1:
            raise ValueError(f"quantization: levels = {levels} is not a whole number of at least 1")
        self.levels = levels

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        sent = {}
        for name, value in update.items():
            norm = value.norm().clamp_min(torch.finfo(value.dtype).tiny)
            level = (self.levels * value.abs() / norm + turn.draw(name, _Threshold(), value)).floor()
            sent[name] = norm * value.sign() * level / self.levels
        return sent

    def surrogate(self, update: Tensors, *, turn: Turn) -> Tensors:
        return update

    def compare(self, simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """The deviance of what was sent, over the number of steps that were sent.

        An entry of u steps is sent as k, a neighbour, with probability `1 - |u - k|`: the variance of k is then
        `|u - k| (1 - |u - k|)`, and its deviance the integral of `|u - k|` over the variance. The variance is bounded
        below, so that a guess that rules out what was sent is far off, and not infinitely so. As the norm was sent, a
        guess is compared at that norm.
        """
        off, sent = [], []
        for name, value in observed.items():
            steps, ours = self._steps(value), simulated[name]
            count = steps.abs().sum(dtype=torch.float64)
            length = ours.square().sum(dtype=torch.float64).clamp_min(1e-300).sqrt()
            least = (FORETOLD * count / steps.numel()).clamp(1e-12, 0.05)
            distance = (ours * (self.levels / length).to(ours.dtype) - steps).abs()
            off.append(_deviance(distance, least).sum(dtype=torch.float64))
            sent.append(count)
        return torch.stack(off).sum() / torch.stack(sent).sum().clamp_min(1)

    def spread(self, observed: Mapping[str, Tensor], *, examples: int, rate: float) -> Spread | None:
        """On average over a parameter: rounding right on average adds the variance to the mean square."""
        sizes = {name: self._step(value.double()) for name, value in observed.items()}
        errors = {name: self._error(value.double(), sizes[name]) for name, value in observed.items()}
        return Spread(errors, steps=sizes)

    def _error(self, sent: Tensor, step: Tensor) -> Tensor:
        variance = (sent.square().sum() - (self.levels * step).square()) / sent.numel()
        return torch.where(variance > 0, variance, step.square() / 6).sqrt()

    def _steps(self, sent: Tensor) -> Tensor:
        """How many steps each entry of a tensor is, signed: whole numbers."""
        step = self._step(sent)
        return torch.where(step > 0, sent / torch.where(step > 0, step, 1), 0).round()

    def _step(self, sent: Tensor) -> Tensor:
        """The step of a tensor, 0 where nothing was sent. A weight delta has been rounded with the weights: the entries
        of the least level differ a little, and their mean is taken.

        Of a tensor of many entries some are of one step. Of one of few the least may be of several; then the norm,
        which is `levels` steps, says of how many.
        """
        sizes = sent.abs()
        smallest = torch.where(sizes > 0, sizes, torch.inf).amin()
        near = (sizes > 0) & (sizes < 1.5 * smallest)
        least = torch.where(near, sizes, 0).sum() / near.sum().clamp_min(1)
        several = torch.arange(1, SHARES + 1, dtype=sent.dtype, device=sent.device)
        if sent.numel() <= self.levels**2:
            expected = self.levels**2 + sent.numel() / 6
            ratios = (sizes.square().sum() / least.square().clamp_min(1e-300)) * several.square() / expected
            several = several.gather(0, ratios.clamp_min(1e-300).log().abs().argmin(keepdim=True))
        step = least / several[0]
        steps = (sizes / torch.where(step > 0, step, 1)).round()
        return torch.where(step > 0, (sizes * steps).sum() / steps.square().sum().clamp_min(1), 0)


def _deviance(distance: Tensor, least: Tensor) -> Tensor:
    """The integral of `d / max(d (1 - d), least)` over d, from 0 up to each distance; least is below 1/4."""
    root = 2 * least / (1 + (1 - 4 * least).sqrt())  # where d (1 - d) is `least`
    first, last, curved, even, jump = (
        value.to(distance.dtype)
        for value in (
            root,
            1 - root,
            1 / (2 * least),
            root.square() / (2 * least) + (1 - root).log(),
            (root.square() - (1 - root).square()) / (2 * least) + ((1 - root) / root).log(),
        )
    )
    square = distance.square() * curved
    logarithm = even - torch.log1p(-distance.clamp_max(last))
    return torch.where(distance <= first, square, torch.where(distance <= last, logarithm, square + jump))


class _Threshold(Site):
    """Where each entry is rounded up: uniform in [0, 1)."""

    structural = False

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    def rest(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 0.5)

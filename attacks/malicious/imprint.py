"""Robbing the Fed: a layer in front of the model that sorts images into bins.

Fowl, Geiping, Czaja, Goldblum, Goldstein, *Robbing the Fed: Directly Obtaining Private Data in Federated Learning with
Modified Models*, ICLR 2022. Every unit k of a linear layer measures the same h(x) = <w, x>, and is active where
h(x) > c_k, the thresholds rising. The next layer gives all units the same weights, so that the same delta(x) comes back
to every active one:

    dL/dW_k = sum over {x: h(x) > c_k} of delta(x) x        dL/db_k = sum over the same of delta(x)

Differences of neighbours hold the images between two thresholds alone. Where there is one, their quotient is that
image, exactly, whatever the model behind is and whatever it draws: dropout changes delta(x), not x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.base import NotApplicable, Reconstruction, register
from attacks.closed_form.base import Puzzle
from attacks.malicious.base import MaliciousAttack, Outset
from attacks.malicious.exact import answer
from attacks.observation import Observation, ThreatModel
from attacks.seeds import generator_for
from attacks.updates import lacks

CHILD = "imprint"
SMOOTH = 200  # points of the normal distribution by which what public images measure is spread


class ImprintLayer(nn.Module):
    """x + outer(relu(inner(x))), of images (B, C, H, W); with `outer` at zero it changes nothing."""

    def __init__(self, inputs: int, bins: int) -> None:
        super().__init__()
        self.inner = nn.Linear(inputs, bins)
        self.outer = nn.Linear(bins, inputs, bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(self, images: Tensor) -> Tensor:
        added: Tensor = self.outer(F.relu(self.inner(images.flatten(1))))
        return images + added.view_as(images)


@register("imprint")
@dataclass(kw_only=True, eq=False)
class Imprint(MaliciousAttack):
    """Sort the batch into bins of brightness by a layer in front of the model, and read off each that is alone in one
    (Fowl et al., ICLR 2022).

    The thresholds are quantiles of what public images measure. Images that share a bin are mixed and lost; so are
    those whose own loss says nothing.

    Args:
        bins: units of the layer; of B images about `(1 - 1 / bins) ** (B - 1)` are alone.
        scale: how much the layer adds to an image, in its own deviations.
        gain: by what factor the layer's input is made smaller and its output larger, which leaves what it adds as it is
            and makes its gradient larger by as much: against noise on the update.
    """

    paper: ClassVar[str] = "Fowl et al., ICLR 2022 (arXiv 2110.13057)"
    exploits: ClassVar[str] = "nothing of the model: it puts a layer in front"
    under_dropout: ClassVar[str] = "the same"
    requires: ClassVar[Mapping[str, Sequence[str]]] = {"server": ("malicious",), "auxiliary_data": ("public",)}
    adapts: ClassVar[Mapping[str, str | None]] = {"clip": None}
    reads_first: ClassVar[bool] = True
    ignores: ClassVar[tuple[str, ...]] = ("labels", "noise", "dropout_rate")

    bins: int = 512
    scale: float = 1.0
    gain: float = 1e5

    def __post_init__(self) -> None:
        self._whole("bins")
        self._positive("scale", "gain")

    def on_model(self, model: nn.Module, *, input_shape: tuple[int, int, int]) -> nn.Module:
        like = next(model.parameters())
        # a child of a container would be taken for one more of its layers
        place = next((m for m in model.modules() if not isinstance(m, nn.Sequential | nn.ModuleList)), None)
        if place is None:
            raise ValueError("imprint: the model has no layer to stand before")
        place.add_module(CHILD, ImprintLayer(math.prod(input_shape), self.bins).to(like))
        model.register_forward_pre_hook(_through)
        return model

    def change(self, model: nn.Module, outset: Outset, *, seed: int) -> None:
        layer = _layer(model)
        inputs = layer.inner.in_features
        measure = outset.public.new_full((inputs,), 1 / inputs)
        levels = _spread(outset.public.flatten(1) @ measure)
        edges = torch.quantile(levels.double(), torch.arange(self.bins, dtype=torch.float64) / self.bins)
        edges[0] = 2 * levels.min() - levels.max()  # below whatever is likely: all images are above it
        direction = torch.randn(inputs, generator=generator_for(seed, "imprint"))
        heights = (levels[:, None] - edges).clamp_min(0).sum(1)  # what all units add up to, for each image
        direction *= self.scale / heights.square().mean().sqrt()
        with torch.no_grad():
            layer.inner.weight.copy_(measure.expand(self.bins, -1) / self.gain)
            layer.inner.bias.copy_(-edges / self.gain)
            layer.outer.weight.copy_(direction[:, None].expand(-1, self.bins) * self.gain)

    def reconstruct(
        self, observation: Observation, threat_model: ThreatModel, model: nn.Module, *, seed: int
    ) -> Reconstruction:
        puzzle = Puzzle.of(observation, threat_model, model)
        own = next(name for name, module in model.named_modules() if isinstance(module, ImprintLayer))
        names = (f"{own}.inner.weight", f"{own}.inner.bias")
        if missing := [name for name in names if name not in puzzle.names]:
            raise NotApplicable(lacks(missing[0]))
        weight, bias = (_differences(puzzle.gradient(name)) for name in names)
        whole = float(puzzle.gradient(names[1]).abs().max())
        return answer(puzzle, weight, bias, floor=whole)


def _spread(levels: Tensor) -> Tensor:
    """What images measure (N,), each spread to many by the rule of Silverman: the tails, too, have quantiles."""
    normal = torch.special.ndtri((torch.arange(SMOOTH, dtype=levels.dtype) + 0.5) / SMOOTH)
    width = 1.06 * levels.std() * len(levels) ** -0.2
    return (levels[:, None] + width * normal).flatten()


def _differences(values: Tensor) -> Tensor:
    """Each row less the next; the last as it is."""
    return values - torch.cat([values[1:], torch.zeros_like(values[:1])])


def _layer(model: nn.Module) -> ImprintLayer:
    return next(module for module in model.modules() if isinstance(module, ImprintLayer))


def _through(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    images, *others = inputs
    return (_layer(model)(images), *others)

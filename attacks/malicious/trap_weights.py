"""Trap weights: a first layer whose units are active for few images each.

Boenisch, Dziedzic, Schuster, Shamsabadi, Shumailov, Papernot, *When the Curious Abandon Honesty: Federated Learning Is
Not Private*, EuroS&P 2023. Of each unit's weights, which see pixels in [0, 1], a random half is negative and the other
half positive, and a little smaller: on most images the negative part wins and the unit is not active. A unit that is
active for one image of the batch alone has a gradient of that image alone: `dL/dW_k / dL/db_k` is the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.base import NotApplicable, Reconstruction, register
from attacks.closed_form.base import Puzzle
from attacks.closed_form.first_layer import FirstLinear, first_linear, first_linear_of
from attacks.malicious.base import MaliciousAttack, Outset
from attacks.malicious.exact import answer
from attacks.observation import Observation, ThreatModel
from attacks.seeds import generator_for


@register("trap_weights")
@dataclass(kw_only=True, eq=False)
class TrapWeights(MaliciousAttack):
    """Give the first linear layer weights that few images activate, and read off those that are alone in a unit
    (Boenisch et al., EuroS&P 2023).

    By what factor the positive weights are smaller is found on public images, for each unit. Units of an activation
    that is not flat where they are not active (GELU) are a little active for all images; so weights are large, which
    makes it as good as flat.

    Args:
        share: of public images that activate a unit; 1 over the batch gives the most units with one image.
        gain: the deviation of what a unit sees of public images.
    """

    paper: ClassVar[str] = "Boenisch et al., EuroS&P 2023 (arXiv 2112.02918)"
    exploits: ClassVar[str] = "a linear first layer with a bias"
    under_dropout: ClassVar[str] = "the same"
    requires: ClassVar[Mapping[str, Sequence[str]]] = {"server": ("malicious",), "auxiliary_data": ("public",)}
    adapts: ClassVar[Mapping[str, str | None]] = {"clip": None}
    reads_first: ClassVar[bool] = True
    ignores: ClassVar[tuple[str, ...]] = ("labels", "noise", "dropout_rate")

    share: float = 0.05
    gain: float = 100.0

    def __post_init__(self) -> None:
        self._positive("gain")
        if not 0 < self.share < 1:
            raise ValueError(f"trap_weights: share = {self.share} is not in (0, 1)")

    def change(self, model: nn.Module, outset: Outset, *, seed: int) -> None:
        names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        try:
            layer = first_linear_of(model, outset.input_shape, names)
        except NotApplicable as reason:
            raise ValueError(f"trap_weights: {reason}") from None
        if layer.bias is None:
            raise ValueError(f"trap_weights: {layer.weight} has no bias, by whose gradient an image is divided")
        mean, std = (
            torch.tensor(values, dtype=torch.float64).view(-1, 1, 1).expand(outset.input_shape).flatten()
            for values in (outset.mean, outset.std)
        )
        pixels = outset.public.double().flatten(1) * std + mean
        weight = self._trapping(pixels, layer.layer.out_features, seed)
        weight = weight * (self.gain / (pixels @ weight.T).std())
        with torch.no_grad():  # the layer is given normalised pixels
            model.get_parameter(layer.weight).copy_(weight * std)
            model.get_parameter(layer.bias).copy_(weight @ mean)

    def _trapping(self, pixels: Tensor, units: int, seed: int) -> Tensor:
        """Weights (units, inputs) on pixels in [0, 1]."""
        generator = generator_for(seed, "trap weights")
        inputs = pixels.shape[1]
        sizes = torch.randn(units, inputs, generator=generator, dtype=torch.float64).abs()
        positive = torch.rand(units, inputs, generator=generator).argsort(1) < inputs // 2
        above, below = pixels @ (sizes * positive).T, pixels @ (sizes * ~positive).T
        ratio = torch.where(above > 0, below / above.clamp_min(1e-12), torch.inf)
        smaller = torch.quantile(ratio, self.share, dim=0)  # of the images that are the first to activate a unit
        smaller = torch.where(smaller.isfinite(), smaller, 1.0)
        return sizes * torch.where(positive, smaller[:, None], -1.0)

    def reconstruct(
        self, observation: Observation, threat_model: ThreatModel, model: nn.Module, *, seed: int
    ) -> Reconstruction:
        puzzle = Puzzle.of(observation, threat_model, model)
        layer: FirstLinear = first_linear(puzzle)
        if layer.bias is None:
            raise NotApplicable(f"no gradient of the bias beside {layer.weight}, by which an image is divided")
        weight, bias = puzzle.gradient(layer.weight), puzzle.gradient(layer.bias)
        return answer(puzzle, weight, bias, floor=float(bias.abs().max()))

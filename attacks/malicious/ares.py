"""ARES: the vectors that a linear layer sees, one image each, and the images that have them.

Gong, L. Y. Zhang, Y. Zhang, Vo, Zhu, Pan, Wang, *ARES: Scalable and Practical Gradient Inversion Attack in Federated
Learning through Activation Recovery*, 2026 (arXiv 2603.17623). Most convolutional networks end in several linear
layers, and what imprints do in front of a model, the first of these does inside it, without a new layer: given weights
by which each unit is active for few images, a unit that is active for one image alone has the gradient

    dL/dW_k = delta z(x)        dL/db_k = delta

whose quotient is what the layer saw of that image, z(x), exactly. The server knows the layers before it, so that the
image is what has these activations, and little total variation: a generalised Lasso. It chooses their weights, too.

After the paper's abstract. There one direction with rising thresholds tells images apart, as in `imprint`, for which
the layer behind must give all units the same weights and drop none. Here each unit has a direction of its own, so that
nothing behind the layer is changed, and dropout there takes units from an image, not images from the attack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from attacks.base import NotApplicable, Reconstruction, register
from attacks.closed_form.base import Puzzle
from attacks.head import Cut as Place
from attacks.head import find_cut
from attacks.malicious.base import MaliciousAttack, Outset
from attacks.malicious.exact import ROUNDED, distinct
from attacks.matching.cut import Cut
from attacks.observation import Observation, ThreatModel
from attacks.seeds import generator_for
from attacks.twin import attacker_copy
from attacks.updates import lacks

FULL, COMPRESSED = 1e-5, 1e-3
"""Total variation's weight where a layer sees at least as many numbers as an image has, and where it sees fewer."""

SMOOTH = 3
"""Entries of a kernel over which it is averaged."""

LEAST = 0.02
"""The share of what a layer sees by which two images differ at least."""

LIFT = 3.0
"""Deviations by which the mean of a map lies above 0."""


@register("ares")
@dataclass(kw_only=True, eq=False)
class Ares(MaliciousAttack):
    """Give the first linear layer behind the convolutions weights that few images activate, read off what it saw of
    each that is alone in a unit, and look for the image that has these activations (after Gong et al., 2026):

        min_x  |z(x) - z*|^2 / (2 |z*|^2) + total_variation * TV(x)

    A model whose first layer is linear has no search left to do. An answer that several units agree on is certain of
    its activations; the search may still miss the image. It declines models with batch norm before the layer, which
    mixes the images.

    Args:
        share: of public images that activate a unit; 1 over the batch gives the most units with one image.
        gain: the deviation of what a unit sees of public images.
        iterations: of the search, at most.
        total_variation: weight of the smoothness prior; None: 1e-5, or 1e-3 where the layer sees fewer numbers than an
            image has.
    """

    paper: ClassVar[str] = "after Gong et al., 2026 (arXiv 2603.17623)"
    exploits: ClassVar[str] = "a linear layer before the head that sees one vector and has a bias"
    under_dropout: ClassVar[str] = "the same behind the layer; masks before it are read off its zeros, or looked for"
    requires: ClassVar[Mapping[str, Sequence[str]]] = {"server": ("malicious",), "auxiliary_data": ("public",)}
    adapts: ClassVar[Mapping[str, str | None]] = {"clip": None}
    ignores: ClassVar[tuple[str, ...]] = ("labels", "noise")

    share: float = 0.05
    gain: float = 10.0
    iterations: int = 1000
    total_variation: float | None = None

    def __post_init__(self) -> None:
        self._positive("gain")
        self._whole("iterations")
        if self.total_variation is not None:
            self._weights("total_variation")
        if not 0 < self.share < 1:
            raise ValueError(f"{self.name}: share = {self.share} is not in (0, 1)")

    def change(self, model: nn.Module, outset: Outset, *, seed: int) -> None:
        try:
            twin = attacker_copy(model, model.state_dict())
            place = _place(twin, outset.input_shape)
        except NotApplicable as reason:
            raise ValueError(f"{self.name}: {reason}") from None
        public, generator = outset.public.to(next(model.parameters())), generator_for(seed, self.name)
        for path, layer in twin.named_modules():
            if isinstance(layer, nn.Conv2d) and f"{path}.weight" in place.before:
                _smooth(layer, generator)
                _lift(layer, twin, public)
        features = _seen(place.head.layer, twin, public)
        weight = torch.randn(place.head.layer.weight.shape, generator=generator, dtype=torch.float64).to(features)
        levels = features @ weight.T
        if not bool((levels.std(0) > 0).all()):
            raise ValueError(f"{self.name}: {place.head.weight} sees the same of all public images")
        scale = self.gain / levels.std(0)
        with torch.no_grad():
            place.head.layer.weight.copy_(weight * scale[:, None])
            place.head.layer.bias.copy_(-scale * torch.quantile(levels, 1 - self.share, dim=0))
            for name, value in twin.named_parameters():
                model.get_parameter(name).copy_(value)

    def reconstruct(
        self, observation: Observation, threat_model: ThreatModel, model: nn.Module, *, seed: int
    ) -> Reconstruction:
        puzzle = Puzzle.of(observation, threat_model, model)
        place = _place(puzzle.model, observation.input_shape)
        names = (place.head.weight, str(place.head.bias))
        if missing := [name for name in names if name not in puzzle.names]:
            raise NotApplicable(lacks(missing[0]))
        weight, bias = (puzzle.gradient(name) for name in names)
        eps = torch.finfo(getattr(torch, observation.precision)).eps
        said = bias.abs() > ROUNDED * eps * bias.abs().max()
        if not bool(said.any()):
            raise NotApplicable("no unit of the changed layer was active")
        features, sizes = weight[said] / bias[said, None], bias[said].abs()
        apart = (features - features.median(0).values).square().mean(1).median()
        alike = (LEAST * features).square().mean()  # of a single image rows differ by rounding alone
        kept, votes = distinct(features / torch.maximum(apart, alike).sqrt(), sizes)
        unit = torch.eye(len(bias), dtype=bias.dtype, device=bias.device)[0]
        alone = [
            replace(
                puzzle.observation,
                update={names[0]: torch.outer(unit, features[at]), names[1]: unit},
                kind="gradient",
                precision="float64" if observation.precision == "float64" else "float32",
                local=None,
                defense=None,
                batch_size=1,
                examples=1,
                labels=torch.zeros(1, dtype=torch.long),
            )
            for at in kept
        ]
        granted = replace(threat_model, labels="known", batch_size="known", aggregation="individual")
        smoothness = self.total_variation
        if smoothness is None:
            smoothness = FULL if features.shape[1] >= math.prod(observation.input_shape) else COMPRESSED
        search = _ByFeatures(iterations=self.iterations, total_variation=smoothness)
        search.compile = self.compile
        found = search.run(alone, granted, model, seed=seed)
        self.compile_seconds += search.compile_seconds
        answers = [(answer, agree > 1) for answer, agree in zip(found, votes) if isinstance(answer, Reconstruction)]
        if not answers:
            raise next(reason for reason in found if isinstance(reason, NotApplicable))
        # behind a pooling the activations of several images together are those of no image: the search leaves more
        answers = sorted(answers, key=lambda answer: (not answer[1], answer[0].loss))[: puzzle.images]
        return Reconstruction(
            images=torch.cat([answer.images for answer, _ in answers]),
            loss=max(answer.loss for answer, _ in answers),
            iterations=max(answer.iterations for answer, _ in answers),
            stopped=None,
            details={
                "certain": [certain for _, certain in answers],
                "rows": int(said.sum()),
                "losses": [answer.loss for answer, _ in answers],
            },
        )


@dataclass(kw_only=True, eq=False)
class _ByFeatures(Cut):
    """`cut` by what the layer saw alone: of what lies before it no gradient is of one image."""

    name: ClassVar[str] = "by_features"

    def place(
        self,
        model: nn.Module,
        input_shape: tuple[int, int, int],
        trained: Collection[str],
        term: Callable[[nn.Module], Any],
    ) -> Place:
        return _place(model, input_shape)


def _smooth(layer: nn.Conv2d, generator: torch.Generator) -> None:
    """Give a convolution random kernels without high frequencies: of maps that are smooth a maximum over neighbours
    takes little away."""
    kernels = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
    kernels = F.avg_pool2d(kernels, SMOOTH, stride=1, padding=SMOOTH // 2, count_include_pad=False)
    with torch.no_grad():
        layer.weight.copy_(kernels / kernels.flatten(1).norm(dim=1)[:, None, None, None])


def _lift(layer: nn.Conv2d, model: nn.Module, public: Tensor) -> None:
    """Give a convolution a bias by which hardly anything of its maps is negative, for a ReLU behind it to cut off."""
    if layer.bias is None:
        return
    with torch.no_grad():
        layer.bias.zero_()
        maps = _seen(layer, model, public, made=True)
        layer.bias.copy_(LIFT * maps.std((0, 2, 3)) - maps.mean((0, 2, 3)))


def _seen(layer: nn.Module, model: nn.Module, images: Tensor, *, made: bool = False) -> Tensor:
    """What a layer sees of images on their way through the model, or what it makes of that."""
    calls: list[Tensor] = []
    handle = layer.register_forward_hook(lambda own, inputs, output: calls.append(output if made else inputs[0]))
    with torch.no_grad():
        model(images)
    handle.remove()
    return calls[0].double()


def _place(model: nn.Module, input_shape: tuple[int, int, int]) -> Place:
    """The first linear layer that sees one vector of an image, through which all passes.

    Raises:
        NotApplicable: there is none with a bias before the head, or batch norm lies before it.
    """
    place = find_cut(model, input_shape, [name for name, _ in model.named_parameters()], lambda model: 0.0)
    if place.head.last or place.head.bias is None:
        raise NotApplicable("no linear layer before the head sees one vector of an image and has a bias")
    norms = [path for path, layer in model.named_modules() if isinstance(layer, _BatchNorm) and layer.training]
    if mixing := next((path for path in norms if any(n.startswith(f"{path}.") for n in place.before)), None):
        raise NotApplicable(f"batch norm {mixing} mixes the images before {place.head.weight} sees them")
    return place

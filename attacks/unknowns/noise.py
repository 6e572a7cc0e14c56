"""What random sites drew: looked for, tried out, or drawn anew."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from attacks.base import NotApplicable
from attacks.sites import noise_inputs
from attacks.unknowns.base import NOISE, Draw, Setting, Unknown
from defenses.client.site import Site, joined
from defenses.stochastic import StochasticLayer, stochastic_layers

ENUMERATED = 16
"""At most so many values of what no descent can move are tried, one after the other."""


class Noise(Unknown):
    """What the random sites drew: from their own distribution, by the raw gradient, in their relaxed set.

    The draws of a site that has no such set (a permutation) are enumerated; so are those of sites that have one (a
    depth, where a nested vector ends, a choice of experts), where all that they are likely to have drawn is few.
    """

    def __init__(self, setting: Setting) -> None:
        self.sizes, self.acts_on = setting.sizes, setting.noise_inputs
        self.sites = setting.sites
        relaxable = {name for name in setting.noise_inputs if self.sites[name].relaxable}
        counts = {name: self._count(name) for name in setting.noise_inputs}
        finite = {name for name in relaxable if counts[name] is not None}
        few = math.prod(counts[name] or 1 for name in counts.keys() - (relaxable - finite)) <= ENUMERATED
        self.discrete = [name for name in setting.noise_inputs if name not in relaxable or (few and name in finite)]
        self.inputs = {name: shape for name, shape in setting.noise_inputs.items() if name not in self.discrete}

    def owns(self, name: str) -> bool:
        return name.startswith(NOISE)

    def start(self, draw: Draw) -> dict[str, Tensor]:
        return {NOISE + name: self._drawn(name, shape, draw(NOISE + name)) for name, shape in self.inputs.items()}

    def alternatives(self) -> list[dict[str, Tensor]]:
        each = {name: self._values(name) for name in self.discrete}
        if math.prod(len(values) for values in each.values()) > ENUMERATED:
            raise NotApplicable(_too_many(" and ".join(each)))
        return [
            {NOISE + name: value for name, value in zip(each, chosen)} for chosen in itertools.product(*each.values())
        ]

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient

    def project(self, name: str, value: Tensor) -> Tensor:
        return self.sites[name.removeprefix(NOISE)].project(value)

    def _count(self, name: str) -> int | None:
        """How many values a site can have drawn in all steps, if they are few."""
        site = self.sites[name]
        support = site.support(ENUMERATED, self.acts_on[name])
        ragged = "example" in site.axes and len(set(self.sizes)) > 1
        if support is None or ragged or len(support) ** self._steps(site) > ENUMERATED:
            return None
        return int(len(support) ** self._steps(site))

    def _steps(self, site: Site) -> int:
        return len(self.sizes) if "step" in site.axes else 1

    def _values(self, name: str) -> list[Tensor]:
        """All that a site can have drawn in all steps."""
        site = self.sites[name]
        support = site.support(ENUMERATED, self.acts_on[name])
        if support is None or self._count(name) is None:
            raise NotApplicable(_too_many(name))
        return [joined(list(draws), site.axes) for draws in itertools.product(support, repeat=self._steps(site))]

    def _drawn(self, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
        return _of_all_steps(self.sites[name], shape, self.sizes, generator, self.sites[name].relax)


class Anew:
    """What stands for draws that are neither known nor looked for, where it is another draw in each iteration.

    The layers that an unknown defense has left at rest in the attacker's model draw as well, as the model does that was
    sent.

    Args:
        taken: the names of the guess that are known or looked for.
        generators: of each problem, of the CPU.
    """

    def __init__(self, setting: Setting, taken: Collection[str], generators: Sequence[torch.Generator]) -> None:
        self._sizes, self._generators = setting.sizes, generators
        self._like = next(setting.model.parameters())
        self._layers: dict[str, tuple[StochasticLayer, torch.Size]] = {}
        if setting.model.training:
            for layer in setting.model.modules():
                if isinstance(layer, StochasticLayer):
                    layer.resting = False
            entering = setting.sizes[0] * setting.round.defense.grows
            shapes = noise_inputs(setting.model, entering, setting.input_shape)
            layers = stochastic_layers(setting.model)
            self._layers = {p: (layers[p], shape) for p, shape in shapes.items() if NOISE + p not in taken}

    def __call__(self, problems: Sequence[int]) -> dict[str, Tensor]:
        """The next draws of these problems, (M, ...) by name."""
        return {
            NOISE + path: torch.stack(
                [_of_all_steps(layer, shape, self._sizes, self._generators[number]) for number in problems]
            ).to(self._like)
            for path, (layer, shape) in self._layers.items()
        }


def _of_all_steps(
    site: Site,
    shape: torch.Size,
    sizes: Sequence[int],
    generator: torch.Generator,
    then: Callable[[Tensor], Tensor] = lambda noise: noise,
) -> Tensor:
    """What a site draws in all steps, as one tensor.

    Args:
        shape: of what it acts on in the first step: as many examples as that has, or so many times as many.
        sizes: how many examples each step has.
        then: what is made of each draw.
    """
    if "example" in site.axes:  # all at once, as one step of as many examples
        return then(site.sample(torch.zeros(sum(sizes) * shape[0] // sizes[0], *shape[1:]), generator))
    steps = sizes if "step" in site.axes else sizes[:1]
    return joined([then(site.sample(torch.zeros(shape), generator)) for _ in steps], site.axes)


def _too_many(sites: str) -> str:
    return f"what the client drew at {sites} is not known, and more than the {ENUMERATED} values that could be tried"

"""What an attack optimises, and how: the initial value, the descent direction and the set it stays in.

A *guess* holds everything that determines a client's update, by name, for N problems at once:

    images          (N, B, C, H, W)
    labels          (N, B) class indices, or (N, B, K) probabilities
    noise.<site>    (N, ...) for each random site, its draws of all steps (see `defenses.client.site`): of a dropout
                    layer (N, B, ...), by its module path
    along           (N, L): the weights of each matched parameter that gradients are taken at are those that were sent,
                    plus so many times the observed update; without it, those that were sent

Some of it the attacker knows; each unknown stands for one or more of the other names. What is optimised need not
be that value itself: it may be anything that the value is a function of, under names of its own, as images are of what
a decoder is given (`attacks.generated`).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.base import NotApplicable
from defenses.client.round import ClientRound, replay
from defenses.client.site import Site, Source, joined
from defenses.stochastic import StochasticLayer, drawing, set_stochastic, stochastic_layers

Guess = Mapping[str, Tensor]
Draw = Callable[[str], torch.Generator]
"""A generator of its own for each name that an unknown draws."""

NOISE = "noise."

ALONG = "along"

ENUMERATED = 16
"""At most so many values of what no descent can move are tried, one after the other."""


def noise_of(guess: Guess) -> dict[str, Tensor]:
    """The noise in a guess, by site."""
    return {name.removeprefix(NOISE): value for name, value in guess.items() if name.startswith(NOISE)}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all problems of one optimisation share.

    Args:
        model: the attacker's copy, on the device and in the dtype to work in.
        images: how many images a problem has, B.
        classes: how many the model tells apart, K.
        input_shape: (C, H, W).
        mean, std: per channel.
        noise_inputs: the shape of what each structural random site acts on in one step: of a stochastic layer that
            draws, of its input (examples of the step, ...).
        matched: the parameters that the observed updates hold, in the model's order.
        round: the client's round on this model, as far as it is known.
        sizes: how many examples each step has.
        defense_sites: the sites among `noise_inputs` that are no layers of the model.
        read: the sites among `noise_inputs` whose draws are read off each update, and need not be looked for.
        batch_norm: which batch-norm statistics the server has, as the threat model says.
        passes: how often each of the client's examples is among the images, one pass over all after the other.
        reach: where the one gradient that is compared is taken for that of several steps: how many times it each
            parameter moved by. None: it is that of a single step.
        placed: whether labels that are held fixed are those of the images in their places; of inferred ones only the
            counts are known.
    """

    model: nn.Module
    images: int
    classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    noise_inputs: Mapping[str, torch.Size]
    matched: tuple[str, ...]
    round: ClientRound
    sizes: tuple[int, ...]
    defense_sites: Mapping[str, Site] = field(default_factory=dict)
    read: frozenset[str] = frozenset()
    batch_norm: Literal["none", "running", "batch"] = "none"
    passes: int = 1
    reach: Mapping[str, float] | None = None
    placed: bool = True

    @property
    def sites(self) -> dict[str, Site]:
        """All random sites that an attack may have an opinion of."""
        return {**stochastic_layers(self.model), **self.defense_sites}


class Unknown(ABC):
    """One unknown of a composition, made for one setting."""

    @abstractmethod
    def owns(self, name: str) -> bool:
        """Whether it optimises something of that name."""

    @abstractmethod
    def start(self, draw: Draw) -> dict[str, Tensor]:
        """What is optimised of one problem at first, without the leading N, on the CPU in float32."""

    def values(self, free: Guess) -> dict[str, Tensor]:
        """What stands in the guess, by name, differentiable in all that is optimised of it, by its own names, both
        (N, ...): each for itself unless overridden."""
        return {name: self.value(name, part) for name, part in free.items()}

    def value(self, name: str, free: Tensor) -> Tensor:
        """What stands in the guess where each name is for itself: the same unless overridden."""
        return free

    def free(self, name: str, value: Tensor) -> Tensor:
        """What is optimised of one problem so that it stands for this value: the same unless overridden."""
        return value

    def alternatives(self) -> list[dict[str, Tensor]]:
        """What it stands for and no descent can move, in all ways that it can be: each is tried, and held fixed.

        Raises:
            NotApplicable: there are too many of them.
        """
        return [{}]

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """What the optimiser is given in place of a gradient (N, ...)."""

    @abstractmethod
    def project(self, name: str, value: Tensor) -> Tensor:
        """The nearest admissible point to what is optimised (N, ...) under the given name."""


class Images(Unknown):
    """The batch, from N(0, spread^2).

    Args:
        spread: standard deviation of where it starts, in normalised units, around the mean.
        signed: it moves by the gradient's sign, else by the gradient.
        bounded: it stays inside the range that pixels in [0, 1] have once normalised.
        apart: each pass over the examples has images of its own, else the same in the same order.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        spread: float = 1.0,
        signed: bool = True,
        bounded: bool = True,
        apart: bool = False,
    ) -> None:
        self.spread, self.signed, self.bounded = spread, signed, bounded
        self.passes = 1 if apart else setting.passes
        self.shape = (setting.images // self.passes, *setting.input_shape)
        like = next(setting.model.parameters())
        mean, std = (torch.tensor(value).view(-1, 1, 1).to(like) for value in (setting.mean, setting.std))
        self.low, self.high = (0 - mean) / std, (1 - mean) / std

    def owns(self, name: str) -> bool:
        return name == "images"

    def start(self, draw: Draw) -> dict[str, Tensor]:
        return {"images": self.spread * torch.randn(self.shape, generator=draw("images"))}

    def value(self, name: str, free: Tensor) -> Tensor:
        return _repeated(free, self.passes)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.signed else gradient

    def project(self, name: str, value: Tensor) -> Tensor:
        return value.clamp(self.low, self.high) if self.bounded else value


def _repeated(each: Tensor, passes: int) -> Tensor:
    """What N problems have of each example (N, B, ...), for every pass over the examples (N, passes * B, ...)."""
    return each if passes == 1 else torch.cat([each] * passes, dim=1)


class SoftLabels(Unknown):
    """The labels as probabilities (N, B, K): the softmax of logits that may take any value, from N(0, 1); the same in
    each pass over the examples."""

    def __init__(self, setting: Setting) -> None:
        self.passes = setting.passes
        self.shape = (setting.images // self.passes, setting.classes)

    def owns(self, name: str) -> bool:
        return name == "labels"

    def start(self, draw: Draw) -> dict[str, Tensor]:
        return {"labels": torch.randn(self.shape, generator=draw("labels"))}

    def value(self, name: str, free: Tensor) -> Tensor:
        return _repeated(free.softmax(dim=-1), self.passes)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient

    def project(self, name: str, value: Tensor) -> Tensor:
        return value


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


def noise_sites(
    round: ClientRound, images: int, input_shape: tuple[int, int, int]
) -> dict[str, tuple[Site, torch.Size]]:
    """The structural sites of a known defense that draw in a round, and the shape of what each acts on in one step."""
    if not round.defense.draws:
        return {}
    return {name: found for name, found in _traced(round, images, input_shape).found.items() if ":" in name}


def noised(round: ClientRound, images: int, input_shape: tuple[int, int, int]) -> set[str]:
    """The parameters to whose updates a known defense adds noise, so that no zero is left in them."""
    if not (round.defense.changes_update or round.defense.replaces_gradient):
        return set()
    return {name.split(":")[1] for name in _traced(round, images, input_shape).added}


def _traced(round: ClientRound, images: int, input_shape: tuple[int, int, int]) -> _Tracer:
    """A round on blank images, in which nothing is drawn."""
    like = next(round.model.parameters())
    tracer = _Tracer()
    state = {name: value.detach() for name, value in round.model.named_parameters()}
    blank = torch.zeros(images, *input_shape, dtype=like.dtype, device=like.device)
    labels = torch.zeros(images, dtype=torch.int64, device=like.device)
    replay(round, state, blank, labels, source=tracer)
    return tracer


class _Tracer(Source):
    """Leaves everything at rest, and notes which structural sites were asked for, and where noise is added."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[Site, torch.Size]] = {}
        self.added: set[str] = set()

    def draw(self, name: str, site: Site, x: Tensor) -> Tensor | None:
        resting = site.rest(x)
        if site.structural:
            self.found.setdefault(name, (site, x.shape))
        elif resting is not None and not resting.any():
            self.added.add(name)
        return resting


def noise_inputs(model: nn.Module, images: int, input_shape: tuple[int, int, int]) -> dict[str, torch.Size]:
    """Which stochastic layers draw when a batch of `images` passes in train mode, and the input shape (B, ...) of each.

    Raises:
        NotApplicable: a stochastic layer that draws more than once; one noise cannot stand for several draws.
    """
    shapes: dict[str, list[torch.Size]] = {path: [] for path in stochastic_layers(model)}
    drew: set[str] = set()

    def note(path: str, layer: StochasticLayer, x: Tensor) -> Tensor:
        drew.add(path)
        return layer.sample(x)

    def watch(path: str) -> Callable[..., None]:
        return lambda layer, inputs: shapes[path].append(inputs[0].shape)

    layers = stochastic_layers(model)
    handles = [layer.register_forward_pre_hook(watch(path)) for path, layer in layers.items()]
    set_stochastic(model, True)
    like = next(model.parameters())
    with torch.no_grad(), torch.random.fork_rng(devices=[]), drawing(model, note):
        own = {name: value.clone() for name, value in model.named_buffers()}  # a forward pass may count in them
        functional_call(model, own, (torch.zeros(images, *input_shape, dtype=like.dtype, device=like.device),))
    set_stochastic(model, False)
    for handle in handles:
        handle.remove()
    for path in drew:
        if len(shapes[path]) > 1:
            raise NotApplicable(f"the stochastic layer {path} is called {len(shapes[path])} times in one forward pass")
    return {path: shapes[path][0] for path in layers if path in drew}

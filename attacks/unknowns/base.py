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

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from defenses.client.round import ClientRound
from defenses.client.site import Site
from defenses.stochastic import stochastic_layers

Guess = Mapping[str, Tensor]
Draw = Callable[[str], torch.Generator]
"""A generator of its own for each name that an unknown draws."""

NOISE = "noise."

ALONG = "along"


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


def repeated(each: Tensor, passes: int) -> Tensor:
    """What N problems have of each example (N, B, ...), for every pass over the examples (N, passes * B, ...)."""
    return each if passes == 1 else torch.cat([each] * passes, dim=1)

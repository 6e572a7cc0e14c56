"""The contract of an evaluator: the matching loss of N problems and its gradient in what is unknown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.base import NotApplicable
from attacks.facts import FACT, Facts, taken_of
from attacks.priors import Prior
from attacks.unknowns import Guess
from defenses.client.compute import Inputs


@dataclass(frozen=True)
class Beliefs:
    """What an evaluator is to judge of a guess besides how it matches, while it replays the clients' rounds.

    Args:
        priors: of a composition, those that ask for what enters layers.
        taken: what all priors of the composition have taken of the observations, (N, ...) by name.
    """

    priors: Sequence[Prior] = ()
    taken: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def asks(self) -> tuple[str, ...]:
        """The layers that are asked for, by module path."""
        return tuple(dict.fromkeys(path for prior in self.priors for path in prior.asks))

    def of(self, problems: slice) -> Beliefs:
        """Those of some of the problems."""
        return Beliefs(self.priors, {name: value[problems] for name, value in self.taken.items()})

    def data(self) -> dict[str, Tensor]:
        """What was taken, as it stands among the data of the problems."""
        return {FACT + name: value for name, value in self.taken.items()}

    def penalty(self, guess: Guess, data: Mapping[str, Tensor], steps: Sequence[Inputs]) -> Tensor:
        """What the priors say (N,) of N guesses, given what entered layers in each local step, (N, B, ...) each.

        Raises:
            NotApplicable: a layer that is called more than once in a forward pass.
        """
        for path, calls in (layer for step in steps for layer in step.items()):
            if len(calls) > 1:
                raise NotApplicable(f"the layer {path} is called {len(calls)} times in one forward pass")
        entered = {path: [step[path][0] for step in steps] for path in self.asks if all(step[path] for step in steps)}
        facts = Facts(taken=taken_of(data), entered=entered)
        return torch.stack([prior(guess, facts) for prior in self.priors]).sum(0)


class Evaluator(ABC):
    """Compares guesses with the observed updates of N problems under an objective.

    Attributes:
        data: what it holds of each problem, (N, ...) by name: the observed update, in the form that it compares, and
            what priors have taken of the observation.
        whole: see `in_one_piece`.
    """

    data: dict[str, Tensor]
    whole: bool = False

    @contextmanager
    def in_one_piece(self) -> Iterator[None]:
        """While open, all problems are computed at once: whoever writes the operations down would have those of every
        few problems, one after the other."""
        self.whole = True
        try:
            yield
        finally:
            self.whole = False

    @abstractmethod
    def compare(
        self, data: Mapping[str, Tensor], guess: Guess, unknowns: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A pure function of tensors, which can be traced: see `__call__`."""

    def judge(
        self, data: Mapping[str, Tensor], guess: Guess, unknowns: Sequence[str], weight: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """As `compare`, with the priors that ask for what enters layers; `weight` (N,) is what they are multiplied by.

        Returns:
            the loss and the penalty of each problem, (N,) both, and the gradient of `loss + weight * penalty`.
        """
        loss, slopes = self.compare(data, guess, unknowns)
        return loss, torch.zeros_like(loss), slopes

    def local_steps(self, guess: Guess) -> int:
        """In how many steps, alike enough to be one program, it replays the clients' rounds; 1: they are not apart."""
        return 1

    def compile_local_steps(self, problems: int) -> None:
        """From now on each of these steps is run by a program (`attacks.local_step`), of at most so many problems."""
        raise NotImplementedError

    def __call__(self, guess: Guess, unknowns: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each problem, (N,) float64, and its gradient in the named parts of the guess, (N, ...) each."""
        return self.compare(self.data, guess, unknowns)

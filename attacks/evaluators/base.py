"""The contract of an evaluator: per-parameter scalars of simulated against observed updates, for N problems at once."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from attacks.unknowns import Guess


class Evaluator(ABC):
    """Holds the observed updates of N problems; compares guesses with them.

    Attributes:
        observed: `|g*|^2` per problem and parameter, (N, L) float64.
    """

    observed: Tensor

    @abstractmethod
    def __call__(self, guess: Guess) -> tuple[Tensor, Tensor]:
        """`<g, g*>` and `|g|^2`, each (N, L) float64, differentiable in the guess."""

    @abstractmethod
    def keep(self, problems: Tensor) -> None:
        """Keep only these problems (indices (M,)): the others have finished."""

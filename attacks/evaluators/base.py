"""The contract of an evaluator: the matching loss of N problems and its gradient in what is unknown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from attacks.unknowns import Guess


class Evaluator(ABC):
    """Holds the observed updates of N problems and an objective; compares guesses with them."""

    @abstractmethod
    def __call__(self, guess: Guess, unknowns: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each problem, (N,) float64, and its gradient in the named parts of the guess, (N, ...) each."""

    @abstractmethod
    def keep(self, problems: Tensor) -> None:
        """Keep only these problems (indices (M,)): the others have finished."""

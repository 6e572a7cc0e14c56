"""The contract of an evaluator: the matching loss of N problems and its gradient in what is unknown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from attacks.unknowns import Guess


class Evaluator(ABC):
    """Compares guesses with the observed updates of N problems under an objective.

    Attributes:
        data: what it holds of each problem, (N, ...) by name: the observed update, in the form that it compares.
    """

    data: dict[str, Tensor]

    @abstractmethod
    def compare(
        self, data: Mapping[str, Tensor], guess: Guess, unknowns: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A pure function of tensors, which can be traced: see `__call__`."""

    def __call__(self, guess: Guess, unknowns: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each problem, (N,) float64, and its gradient in the named parts of the guess, (N, ...) each."""
        return self.compare(self.data, guess, unknowns)

    def keep(self, problems: Tensor) -> None:
        """Keep only these problems (indices (M,)): the others have finished."""
        self.data = {name: value[problems] for name, value in self.data.items()}

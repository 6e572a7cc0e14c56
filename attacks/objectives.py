"""How a simulated update is compared with the observed one.

Both are reduced to three numbers per parameter tensor: their inner product and their squared norms. So one definition
serves every evaluator, whether it forms parameter gradients or not. The numbers are added up in float64: near its
optimum `1 - cos` is a small difference of large sums.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Objective(Protocol):
    """Per-problem losses (N,) from per-parameter scalars (N, L).

    Attributes:
        exact: the three numbers must be exact for the gradients they are taken of, not just to the precision in which
            the model computes: only their difference counts, and it is sought far below that precision.
    """

    exact: bool

    def __call__(self, inner: Tensor, simulated: Tensor, observed: Tensor) -> Tensor:
        """From `<g, g*>`, `|g|^2` and `|g*|^2`, each (N, L) float64: the loss of each problem (N,)."""


class Cosine:
    """`1 - cos(g, g*)` of all parameters concatenated (Geiping et al., NeurIPS 2020)."""

    exact = False

    def __call__(self, inner: Tensor, simulated: Tensor, observed: Tensor) -> Tensor:
        return 1 - inner.sum(1) / (simulated.sum(1) * observed.sum(1)).sqrt()


class Euclidean:
    """`|g - g*|^2` (Zhu et al., Deep Leakage from Gradients, NeurIPS 2019).

    In float32 the three sums cancel to something negative long before L-BFGS has converged.
    """

    exact = True

    def __call__(self, inner: Tensor, simulated: Tensor, observed: Tensor) -> Tensor:
        return (simulated - 2 * inner + observed).sum(1)

"""How a simulated update is compared with the observed one.

Most objectives need no more than three numbers per parameter tensor, its inner product with the observed one and their
squared norms. So one definition serves every evaluator, whether it forms parameter gradients or not. The numbers are
added up in float64: near its optimum `1 - cos` is a small difference of large sums. Others need the entries, which only
the general evaluator forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor


class Objective(Protocol):
    """Per-problem losses (N,) from per-parameter scalars (N, L).

    Attributes:
        needs: `products`, the three numbers; or `entries`: then it has `of_entries` as well, and what it makes of the
            products is what it is where simulated and observed update differ by noise alone.
        exact: the three numbers must be exact for the gradients they are taken of, not just to the precision in which
            the model computes: only their difference counts, and it is sought far below that precision.
    """

    needs: Literal["products", "entries"]
    exact: bool

    def __call__(self, inner: Tensor, simulated: Tensor, observed: Tensor) -> Tensor:
        """From `<g, g*>`, `|g|^2` and `|g*|^2`, each (N, L) float64: the loss of each problem (N,)."""


class OfEntries(Objective, Protocol):
    """One that needs `entries`."""

    def of_entries(self, simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """The loss of one problem, 0-dim float64, from updates by parameter name."""


class Cosine:
    """`1 - cos(g, g*)` of all parameters concatenated (Geiping et al., NeurIPS 2020)."""

    needs: Literal["products", "entries"] = "products"
    exact = False

    def __call__(self, inner: Tensor, simulated: Tensor, observed: Tensor) -> Tensor:
        return 1 - inner.sum(1) / (simulated.sum(1) * observed.sum(1)).sqrt()


class Euclidean:
    """`|g - g*|^2` (Zhu et al., Deep Leakage from Gradients, NeurIPS 2019).

    In float32 the three sums cancel to something negative long before L-BFGS has converged.
    """

    needs: Literal["products", "entries"] = "products"
    exact = True

    def __call__(self, inner: Tensor, simulated: Tensor, observed: Tensor) -> Tensor:
        return (simulated - 2 * inner + observed).sum(1)


class RelativeEuclidean(Euclidean):
    """`|g - g*|^2 / |g*|^2`: as `Euclidean`, of a size that priors can be weighed against."""

    def __call__(self, inner: Tensor, simulated: Tensor, observed: Tensor) -> Tensor:
        return super().__call__(inner, simulated, observed) / observed.sum(1)


class Distances:
    """`weight * sum_l |g_l - g_l*|_2`, a distance of its own for each parameter (GradInversion: Yin et al., CVPR 2021).

    Distances, not their squares, are sought: not far below the precision that the model computes in.

    Args:
        weight: of the sum.
    """

    needs: Literal["products", "entries"] = "products"
    exact = False

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, inner: Tensor, simulated: Tensor, observed: Tensor) -> Tensor:
        squares = simulated - 2 * inner + observed
        apart = squares > 0  # the root has no derivative at zero
        return self.weight * torch.where(apart, torch.where(apart, squares, 1).sqrt(), 0).sum(1)


class GaussianKernel:
    """`sum_l 1 - exp(-|g_l - g_l*|^2 / |g_l*|^2)` (SAPAG: Wang et al., arXiv 2009.06228): each parameter counts alike,
    whatever its size, and none for more than 1.

    The kernel's width is the observed gradient's own mean square, taken over as many entries as the distance is.
    """

    needs: Literal["products", "entries"] = "products"
    exact = True

    def __call__(self, inner: Tensor, simulated: Tensor, observed: Tensor) -> Tensor:
        distance = (simulated - 2 * inner + observed) / observed.clamp_min(torch.finfo(observed.dtype).tiny)
        return (1 - (-distance).exp()).sum(1)


class EuclideanAndManhattan:
    """`|g - g*|_2^2 + alpha |g - g*|_1`, of all parameters, relative to the observed update (TAG: Deng et al., EMNLP
    Findings 2021).

    Args:
        alpha: weight of the second term.
    """

    needs: Literal["products", "entries"] = "entries"
    exact = True

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, inner: Tensor, simulated: Tensor, observed: Tensor) -> Tensor:
        return (simulated - 2 * inner + observed).sum(1) / observed.sum(1)

    def of_entries(self, simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor]) -> Tensor:
        """The loss of one problem, 0-dim float64, from whole updates by parameter name."""
        pairs = [(simulated[name].double(), value.double()) for name, value in observed.items()]
        squares = torch.stack([(ours - theirs).square().sum() for ours, theirs in pairs]).sum()
        sizes = torch.stack([(ours - theirs).abs().sum() for ours, theirs in pairs]).sum()
        norm = torch.stack([theirs.square().sum() for _, theirs in pairs]).sum()
        size = torch.stack([theirs.abs().sum() for _, theirs in pairs]).sum()
        return squares / norm + self.alpha * sizes / size

"""Send the largest singular values of each parameter's update."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.kept import Kept, Spaces
from defenses.coding import bits_of


@register("svdefense")
class SVDefense(Defense):
    """Replace the update of each weight, as a matrix (outputs, all else), by the nearest one of the lowest rank that
    has a share `energy` of its squared norm.

    Luo, Yau, Song, *SVDefense: Effective Defense against Gradient Inversion Attacks via Singular Value Decomposition*,
    NDSS 2026 (arXiv 2510.03319), after its abstract: its threshold adapts to the client, and it weighs channels and
    layers besides; this is the truncation alone, at one threshold that is ours. The gradient of a linear layer for one
    image has rank 1, and passes as it is. What was sent shows the singular vectors U and V that are left, and an
    attacker who knows the defense compares what lies in these spaces, `U^T G` and `G V`: no decomposition of what it
    simulates is needed.

    Args:
        energy: in (0, 1].
    """

    def __init__(self, *, energy: float = 0.9) -> None:
        if not 0 < energy <= 1:
            raise ValueError(f"svdefense: energy = {energy} is not in (0, 1]")
        self.energy = energy

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        return {name: self._truncated(value) if value.dim() > 1 else value for name, value in update.items()}

    def selection(self, observed: Mapping[str, Tensor]) -> dict[str, Kept]:
        """The spaces of each weight that was truncated, and all of what was not."""
        return {
            name: Spaces.of(value) if value.dim() > 1 else torch.ones_like(value, dtype=torch.bool)
            for name, value in observed.items()
        }

    def bits(self, update: Tensors) -> int:
        """Of each weight the singular vectors that are left, times their values, where that is less."""
        return sum(min(bits_of({name: value}), _factors(value)) for name, value in update.items())

    def _truncated(self, value: Tensor) -> Tensor:
        """The projection on its largest singular vectors, which count as constant in a derivative."""
        matrix = value.flatten(1)
        wide = matrix.shape[0] <= matrix.shape[1]
        sides = matrix if wide else matrix.T
        fixed = sides.detach().double()
        fixed = fixed / fixed.abs().amax().clamp_min(torch.finfo(fixed.dtype).tiny)  # or small squares vanish
        energies, vectors = torch.linalg.eigh(fixed @ fixed.T)
        before = energies.flip(0).cumsum(0) - energies.flip(0)
        kept = (before < self.energy * energies.sum()).flip(0)
        basis = (vectors * kept.to(vectors.dtype)).to(value.dtype)
        projected = basis @ (basis.T @ sides)
        return (projected if wide else projected.T).reshape(value.shape)


def _factors(value: Tensor) -> int:
    matrix = value.flatten(1) if value.dim() > 1 else value[None]
    return int(torch.linalg.matrix_rank(matrix)) * sum(matrix.shape) * 8 * value.element_size()

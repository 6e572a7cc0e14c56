"""The system `G^T X = S` that a transformer's update gives for one vector a token, and how exact its solution is.

G (N, D) are the gradients of N tokens of D dimensions, S (D, P) is the gradient of a layer that all tokens share, and
the rows of X (N, P) are what entered the layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import NotApplicable


@dataclass(frozen=True)
class Solution:
    """The least squares solution.

    Args:
        rows: X (N, P), zero where a token's gradient is.
        errors: (N,) the expected root mean square error of each; infinite where nothing tells.
        tokens, weight: G and S.
        residual: the relative residual.
        noise: the relative noise per equation which that residual means; infinite without equations to spare.
        condition: of the system.
        ridge: what it was solved with.
        tolerated: the share of S that the true X may leave. That is more than the noise in which least squares end,
            since noise of G lets them explain what X does not: as much as the bias's equations are off by, whose
            solution is known. An X of mere chance is never tolerated.
    """

    rows: Tensor
    errors: Tensor
    tokens: Tensor
    weight: Tensor
    residual: float
    noise: float
    condition: float
    ridge: float
    tolerated: float

    @property
    def deviation(self) -> float:
        """The standard deviation of that noise in an entry of S."""
        return self.noise * float(self.weight.square().mean().sqrt())

    @property
    def best_ridge(self) -> float:
        """The ridge that the noise asks for: with it each equation is best foretold from the others.

        Generalised cross-validation (Golub, Heath and Wahba, Technometrics 1979).
        """
        _, s, right = torch.linalg.svd(self.tokens, full_matrices=False)
        projected = (right @ self.weight).square().sum(1)
        beyond = float(self.weight.square().sum() - projected.sum())
        ridges = torch.logspace(-8, 1, 73, dtype=torch.float64, device=s.device)
        kept = s.square() / (s.square() + (ridges[:, None] * s[0]).square())
        left = beyond + ((1 - kept).square() * projected).sum(1)
        return float(ridges[(left / (self.tokens.shape[1] - kept.sum(1)).square()).argmin()])

    def unexplained(self, rows: Tensor) -> float:
        """The share of S that rows (N, P) leave unexplained."""
        return float((self.weight - self.tokens.T @ rows).norm() / self.weight.norm())

    def explained_by(self, rows: Tensor) -> bool:
        """Whether these rows (N, P) leave no more of the update unexplained than its noise, which is never white."""
        return self.noise < float("inf") and self.unexplained(rows) <= 3 * self.noise


def solve(
    tokens: Tensor, weight: Tensor, bias: Tensor | None = None, *, ridge: float = 0.0, epsilon: float
) -> Solution:
    """Solve `tokens^T [X | 1] = [weight | bias]`.

    Args:
        tokens: G (N, D).
        weight: S (D, P).
        bias: (D,) the gradient of the shared layer's bias: a column whose solution is known, and, by what it becomes,
            the error of the others: also that which the noise of G itself makes, of which a residual says little.
        ridge: of the Tikhonov term `(ridge * s)^2 |X|^2`, s the largest singular value of G.
        epsilon: the precision of G, relative.

    Raises:
        NotApplicable: fewer equations than tokens, or too low a rank.
    """
    norms = tokens.norm(dim=1)
    present = norms > 0  # a dropped token's row is zero, and what entered is nowhere in the update
    count, equations = int(present.sum()), tokens.shape[1]
    if tokens.sum(1).norm() <= 0.01 * tokens.norm():  # below a layer norm, one equation only says that 0 = 0
        equations -= 1
    if count > equations:
        raise NotApplicable(f"{count} tokens are more unknowns than their {equations} free dimensions give equations")
    # rows of one length condition the system best; a ridge means the same noise and the same prior everywhere
    scale = norms[present] if ridge == 0 else norms.new_ones(count)
    orthogonal, triangle = torch.linalg.qr((tokens[present] / scale[:, None]).T)
    u, s, vt = torch.linalg.svd(triangle)
    rank = int((s > epsilon * tokens.shape[1] * s[0]).sum())
    if rank < count:
        raise NotApplicable(f"the tokens' gradients have rank {rank}, fewer than the {count} tokens")
    damping = (ridge * s[0]) ** 2
    inverse = vt.T * (s / (s.square() + damping)) @ u.T / scale[:, None]
    projected = orthogonal.T @ weight
    residual = float((weight - orthogonal @ projected).norm() / weight.norm())
    rows, errors = tokens.new_zeros(len(tokens), weight.shape[1]), tokens.new_full((len(tokens),), float("inf"))
    rows[present] = inverse @ projected
    noise = residual * (equations / (equations - count)) ** 0.5 if equations > count else float("inf")
    if noise < float("inf"):
        # of the noise that goes through, and, with a ridge, of what is left at 0
        variance = inverse.square().sum(1) * (noise * weight.norm()) ** 2 / (equations * weight.shape[1])
        errors[present] = (variance + (vt.T * (damping / (s.square() + damping))).square().sum(1)).sqrt()
    if bias is not None:
        ones = (inverse @ (orthogonal.T @ bias) - 1).square().mean().sqrt().expand(count)
        errors[present] = torch.where(errors[present].isinf(), ones, torch.maximum(errors[present], ones))
    columns, size = weight.shape[1], float(weight.norm())
    off = 0.0 if bias is None else float((bias - tokens.sum(0)).norm()) * columns**0.5 / size
    chance = (1 + columns * (float(tokens.norm()) / size) ** 2) ** 0.5  # what standard normal numbers leave
    tolerated = min(max(noise, off), chance / 2)
    return Solution(rows, errors, tokens, weight, residual, noise, float(s[0] / s[-1]), ridge, tolerated)

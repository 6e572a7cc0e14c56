"""How a parameter's simulated gradient is compared with the observed one, in the cheapest form that both have.

A form maps the simulated gradient of N problems to its inner product with the observed one and to its squared norm, of
what is compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.evaluators.rules import Outer
from defenses.client.kept import Kept, Spaces

Part = Tensor | Outer
Form = Callable[..., tuple[Tensor, Tensor]]
"""From a parameter's simulated gradient to its inner product with the observed one and its squared norm, (N,) each."""


def rows_of(value: Tensor) -> Tensor:
    """(N, *shape) as (N, entries), also where a parameter is a single number."""
    return value.reshape(len(value), -1)


def _formed(part: Part, *, observed: Tensor) -> tuple[Tensor, Tensor]:
    """A small parameter: its simulated gradient is formed. observed: (N, size)."""
    formed = rows_of(part.formed() if isinstance(part, Outer) else part).double()
    return (formed * observed).sum(1), formed.square().sum(1)


def _dense(part: Part, *, observed: Tensor) -> tuple[Tensor, Tensor]:
    """A large weight whose observed gradient has full rank. observed: (N, out, in)."""
    assert isinstance(part, Outer)
    inner = (part.left * (part.right @ observed.transpose(1, 2))).double().sum((1, 2))
    return inner, _gram_norm(part.left.double(), part.right.double())


def _factored(part: Part, *, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """A large weight whose observed gradient is `left right^T`. left: (N, out, r); right: (N, in, r)."""
    assert isinstance(part, Outer)
    ours, theirs = part.left.double(), part.right.double()
    inner = ((ours @ left) * (theirs @ right)).sum((1, 2))
    return inner, _gram_norm(ours, theirs)


def _gram_norm(left: Tensor, right: Tensor) -> Tensor:
    if left.shape[1] == 1:
        return left.square().sum((1, 2)) * right.square().sum((1, 2))
    return ((left @ left.transpose(1, 2)) * (right @ right.transpose(1, 2))).sum((1, 2))


def _gathered(part: Part, *, places: Tensor, counted: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """A weight of which few entries are compared: these alone are formed.

    places: (N, 2, k) rows and columns; counted: (N, k), 0 for what only fills up; observed: (N, k).
    """
    assert isinstance(part, Outer)
    rows, columns = (place[:, None, :].expand(-1, part.left.shape[1], -1) for place in places.unbind(1))
    formed = (part.left.gather(2, rows) * part.right.gather(2, columns)).sum(1).double() * counted
    return (formed * observed).sum(1), formed.square().sum(1)


def _chosen(part: Part, *, observed: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """A parameter of which some entries are compared, its simulated gradient formed. observed, counted: (N, size)."""
    formed = rows_of(part.formed() if isinstance(part, Outer) else part).double() * counted
    return (formed * observed).sum(1), formed.square().sum(1)


def _nothing(part: Part, *, observed: Tensor) -> tuple[Tensor, Tensor]:
    """A parameter of which nothing is compared. observed: (N, 1)."""
    zero = observed.new_zeros(len(observed))
    return zero, zero


def _select(part: Part, observed: Tensor, kept: Tensor) -> tuple[Form, dict[str, Tensor]]:
    """The cheapest way to compare some entries of this parameter's gradient: kept (N, *shape)."""
    flat, mask = rows_of(observed), rows_of(kept)
    most = max(1, int(mask.sum(1).max()))
    if isinstance(part, Outer) and most * part.left.shape[1] < flat.shape[1]:
        order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        width = part.right.shape[2]
        places = torch.stack([order // width, order % width], dim=1)
        counted = mask.gather(1, order).double()
        return _gathered, {"places": places, "counted": counted, "observed": flat.gather(1, order).double() * counted}
    return _chosen, {"observed": flat.double() * mask, "counted": mask.double()}


def _spanned(part: Part, *, left: Tensor, right: Tensor, along: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """A weight of which `U^T G` and `G V` are compared. left: U (N, out, k); right: V (N, in, k); along: (N, k, in) and
    across: (N, out, k), so that what was observed there is `U along + across V^T`."""
    if isinstance(part, Outer):
        ours, theirs = part.left.double(), part.right.double()
        rows, columns = ours @ left, theirs @ right
        inner = (rows * (theirs @ along.transpose(1, 2))).sum((1, 2)) + (columns * (ours @ across)).sum((1, 2))
        if ours.shape[1] == 1:
            inside, outside, here, there = (side.square().sum((1, 2)) for side in (rows, ours, columns, theirs))
            return inner, inside * there + (outside - inside) * here
        return inner, _gram_norm(rows, theirs) + _gram_norm(ours, columns) - _gram_norm(rows, columns)
    matrix = part.reshape(len(left), left.shape[1], -1).double()
    rows, columns = left.transpose(1, 2) @ matrix, matrix @ right
    squares = rows.square().sum((1, 2)) + columns.square().sum((1, 2)) - (rows @ right).square().sum((1, 2))
    return (rows * along).sum((1, 2)) + (columns * across).sum((1, 2)), squares


def prepare(part: Part, observed: Tensor, kept: Kept | None) -> tuple[Form, dict[str, Tensor]]:
    """The cheapest way to compare this parameter's gradient, formed or by its factors, and what it needs to hold."""
    if isinstance(kept, Spaces):
        left, right = kept.left.double(), kept.right.double()
        matrix = observed.reshape(len(left), left.shape[1], -1).double()
        along = left.transpose(1, 2) @ matrix
        across = matrix @ right - left @ (along @ right)
        return _spanned, {"left": left, "right": right, "along": along, "across": across}
    if kept is not None and not kept.any():
        return _nothing, {"observed": rows_of(observed)[:, :1].double()}
    if kept is not None and not kept.all():
        return _select(part, observed, kept)
    if not isinstance(part, Outer):
        return _formed, {"observed": rows_of(observed).double()}
    problems, rows, out = part.left.shape
    width = part.right.shape[2]
    if rows * (out + width) >= out * width:
        return _formed, {"observed": rows_of(observed).double()}
    matrix = observed.reshape(problems, out, width)
    factors = low_rank(matrix, rows)
    if factors is None or factors[0].shape[2] * (out + width) >= out * width:
        return _dense, {"observed": matrix}
    return _factored, {"left": factors[0], "right": factors[1]}


def low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor] | None:
    """Factors left (N, out, r) and right (N, in, r), r <= rank, with `left right^T = matrix`; None if it has more rank.

    A randomised range finder (Halko, Martinsson and Tropp, SIAM Review 2011), accepted only if what it leaves out is
    rounding error.
    """
    _, out, width = matrix.shape
    exact = matrix.double()
    columns = min(rank + 8, out, width)
    probe = torch.randn(width, columns, generator=torch.Generator().manual_seed(0)).to(exact)
    basis, _ = torch.linalg.qr(exact @ probe)
    small = basis.transpose(1, 2) @ exact
    left, values, right = torch.linalg.svd(small, full_matrices=False)
    rounding = torch.finfo(matrix.dtype).eps
    kept = int((values > rounding * values[:, :1]).sum(1).max().clamp(max=rank, min=1))
    left, right = basis @ left[..., :kept] * values[:, None, :kept], right[:, :kept].transpose(1, 2)
    residual = (exact - left @ right.transpose(1, 2)).flatten(1).norm(dim=1)
    if (residual > 32 * rounding * exact.flatten(1).norm(dim=1)).any():
        return None
    return left, right.contiguous()

"""A delta just above the noise does not hide which other ones are determined by their zeros."""

from __future__ import annotations

import torch

from attacks.closed_form.dictionary import sparse_directions
from attacks.closed_form.low_rank import low_rank


def test_strong_deltas_are_sure_beside_one_that_noise_nearly_covers() -> None:
    generator = torch.Generator().manual_seed(0)
    deltas = torch.randn(9, 256, generator=generator, dtype=torch.float64)
    deltas *= torch.rand(9, 256, generator=generator) < 0.5
    deltas[8] *= 1e-6
    inputs = torch.randn(9, 100, generator=generator, dtype=torch.float64)
    noise = torch.randn(256, 100, generator=generator, dtype=torch.float64)
    space = low_rank(deltas.T @ inputs + 1.2e-6 * noise, expected=9, generator=generator)
    assert space.rank == 9
    found = sparse_directions(space, starts=8, generator=generator)
    vectors = torch.nn.functional.normalize(space.left @ found.weights[:, found.sure], dim=0)
    likeness = (torch.nn.functional.normalize(deltas, dim=1) @ vectors).abs()
    assert (likeness.amax(0) > 1 - 1e-9)[likeness.argmax(0) < 8].all()
    assert (likeness[:8].amax(1) > 1 - 1e-9).all()

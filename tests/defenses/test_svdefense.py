"""SVDefense passes a gradient of rank one whatever sizes its entries have."""

from __future__ import annotations

import pytest
import torch

from defenses.base import Turn
from defenses.update.svdefense import SVDefense


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("scale", [1e-3, 1e-10])
def test_squares_that_are_too_small_for_float32_do_no_harm(scale: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    delta = torch.randn(64, generator=draw) * (torch.rand(64, generator=draw) < 0.5) * torch.logspace(0, -15, 64)
    entered = torch.randn(96, generator=draw) * torch.logspace(0, -20, 96)
    update = {"weight": torch.outer(delta, entered) * scale}
    sent = SVDefense().on_update(update, turn=Turn(lambda name, site, x: None))
    assert float((sent["weight"] - update["weight"]).norm()) < 1e-6 * float(update["weight"].norm())

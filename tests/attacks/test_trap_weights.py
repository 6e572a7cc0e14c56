"""Trap weights are made on pixels, and put into a layer that is given normalised ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks import create
from attacks.malicious.base import Outset


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_each_unit_is_active_for_the_share_of_public_images(share: float) -> None:
    torch.manual_seed(0)
    mean, std = (0.3, 0.6), (0.2, 0.5)
    pixels = torch.rand(400, 2, 6, 6)
    normalised = (pixels - torch.tensor(mean).view(2, 1, 1)) / torch.tensor(std).view(2, 1, 1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 50), nn.ReLU(), nn.Linear(50, 3))
    outset = Outset(input_shape=(2, 6, 6), classes=3, mean=mean, std=std, public=normalised)
    create("trap_weights", share=share).change(model, outset, seed=0)
    active = (model[:2](normalised) > 0).double().mean(0)
    torch.testing.assert_close(active, torch.full((50,), share, dtype=torch.float64), rtol=0, atol=2 / 400)
    assert ((model[1].weight > 0).sum(1) == 36).all()

"""Where nobody says how many images a client had, a closed form answers no more than there were."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD, mnist, observe
from torch import nn

import attacks
from attacks import NotApplicable, ThreatModel
from attacks.closed_form.low_rank import low_rank

CLOSED = [name for name in attacks.names() if attacks.get(name).solves and not attacks.get(name).looks_back]


def net(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))


@pytest.mark.parametrize(("width", "images"), [(64, 1), (64, 3), (200, 3)])
def test_no_closed_form_answers_more_images_than_there_were(width: int, images: int) -> None:
    """About half of the units are dead: rounding of the others is of full rank, that of the dead ones is zero."""
    model = net(width)
    seen = observe(model, *mnist(images), mean=(MNIST_MEAN,), std=(MNIST_STD,))
    seen = replace(seen, batch_size=None, labels=None)
    alive = int(seen.update["1.weight"].any(1).sum())
    assert images + 20 < alive < width
    answered = {}
    for name in CLOSED:
        quick = {"iterations": 10} if name == "cocktail_party" else {}
        try:
            found = attacks.create(name, **quick)(seen, ThreatModel(batch_size="unknown", labels="inferred"), model)
        except NotApplicable:
            continue
        answered[name] = len(found.images)
    assert answered["cocktail_party"] == images
    assert max(answered.values()) <= images, answered


def test_rows_of_zeros_are_no_sign_of_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, 2, generator=generator).double() @ torch.randn(2, 90, generator=generator).double()
    matrix += 1e-7 * torch.randn(40, 90, generator=generator).double()
    for reached in (40, 30, 20, 10):
        dead = matrix.clone()
        dead[reached:] = 0
        if reached > 12:
            assert low_rank(dead, expected=None, generator=generator).rank == 2
        else:
            with pytest.raises(NotApplicable, match="no low rank"):
                low_rank(dead, expected=None, generator=generator)
    one = matrix[:, :1] @ matrix[:1]  # of a single image a handful of units is enough
    one[8:] = 0
    assert low_rank(one + 1e-7 * one.abs().mean() * (one != 0), expected=None, generator=generator).rank == 1

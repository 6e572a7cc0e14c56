"""What a client can see of a changed model, on models of which both numbers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedsim.scoring.detection import alike, disaggregation


def one_layer(classes=2):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, classes, bias=False))
    nn.init.zeros_(model[1].weight)
    return model


def test_an_example_outweighs_the_others_by_the_ratio_of_their_gradients():
    images = torch.zeros(3, 1, 2, 2)
    images[0, 0, 0, 0], images[1, 0, 0, 1], images[2, 0, 1, 0] = 3.0, 1.0, 2.0
    # with equal logits delta is (1/2, -1/2) for each, so that gradients are as long as the images, by one factor
    assert disaggregation(one_layer(), images, torch.tensor([0, 1, 0])) == pytest.approx(3 / math.sqrt(1 + 4))


def test_it_is_the_largest_of_all_layers_and_leaves_the_mode():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(4))
        model[3].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))
    images = torch.zeros(2, 1, 2, 2)
    images[0, 0, 0, 0] = images[1, 0, 0, 1] = 1.0
    assert disaggregation(model.train(), images, torch.tensor([1, 1])) == math.inf  # the second reaches no first layer
    assert model.training


def test_one_example_stands_out_without_end():
    assert disaggregation(one_layer(), torch.ones(1, 1, 2, 2), torch.tensor([0])) == math.inf


def test_of_two_the_longer_outweighs_the_other():
    images = torch.tensor([3.0, 2.0])[:, None, None, None] * torch.ones(1, 2, 2)
    assert disaggregation(one_layer(), images, torch.tensor([0, 0])) == pytest.approx(3 / 2)


def test_units_that_see_the_same_are_alike():
    model = nn.Linear(3, 4, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, 3, 0]]))
    assert alike(model) == pytest.approx(1.0)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]))
    assert alike(model) == pytest.approx(math.sqrt(0.5), abs=1e-6)

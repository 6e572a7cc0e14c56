"""A pruned update at batch 1: what is left of it is completed, and what is not in it is said to be unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD, mnist, observe, psnr
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.closed_form.base import Puzzle
from attacks.closed_form.incomplete import completed, rank_one
from defenses.base import Turn
from defenses.client.optimizers.sgd import SGD
from defenses.update.pruning import Pruning
from fedsim.models import build

GREY = {"mean": (MNIST_MEAN,), "std": (MNIST_STD,)}
TOLD = ThreatModel(defense="known")


def victim(
    keep: float, *, bias: bool = True, dropout: float = 0.0, local: LocalTraining | None = None
) -> tuple[nn.Module, Tensor, Observation]:
    images, labels = mnist(1)
    spec = {"name": "mlp", "bias": bias, "dropout": dropout}
    model = build(spec, input_shape=(1, 28, 28), classes=10, seed=0)
    observation = observe(model, images, labels, local=local, **GREY)
    update = Pruning(keep=keep).on_update(dict(observation.update), turn=Turn(lambda name, site, x: None))
    defense = ({"name": "pruning", "keep": keep},)
    return model, images, replace(observation, update=update, defense=defense, noise=None)


def attack(model: nn.Module, observation: Observation) -> Reconstruction:
    return attacks.create("first_linear")(observation, TOLD, model)


@pytest.mark.parametrize(("keep", "dropout", "least"), [(0.3, 0.0, 50), (0.1, 0.5, 45), (0.03, 0.0, 16)])
def test_a_digit_comes_back_from_what_is_left(keep: float, dropout: float, least: float) -> None:
    model, images, observation = victim(keep, dropout=dropout)
    result = attack(model, observation)
    assert psnr(result.images, images, MNIST_STD) >= least
    assert result.details["certain"] == [False]
    assert result.details["pixels_determined"] < 1
    untold = attack(model, replace(observation, defense=None))
    assert untold.details["route"] == "bias"
    assert psnr(untold.images, images, MNIST_STD) < 35


def test_a_pruned_weight_delta_with_weight_decay_is_as_good() -> None:
    model, images, observation = victim(0.3, local=LocalTraining(optimizer=SGD(weight_decay=1e-3)))
    assert psnr(attack(model, observation).images, images, MNIST_STD) >= 45


def test_where_nothing_was_taken_away_zeros_are_zeros() -> None:
    model, _, observation = victim(0.6, dropout=0.5)  # dropout leaves fewer entries than would be kept
    result = attack(model, observation)
    assert result.details["route"] == "bias"
    assert result.details["certain"] == [True]
    with pytest.raises(NotApplicable, match="no entry"):
        completed(observation, TOLD, model)


def test_the_pixels_called_determined_are_those_that_are_right() -> None:
    model, images, observation = victim(0.03)
    found = completed(observation, TOLD, model)
    assert found.image.shape == found.determined.shape == images.shape
    assert 0.05 < float(found.determined.double().mean()) < 0.9
    assert (found.image - images).abs()[found.determined].max() < 1e-3
    assert not found.image[~found.determined].any()
    result = attack(model, observation)
    assert result.details["determined"] == [False]


def test_without_a_bias_the_direction_is_as_good() -> None:
    model, images, observation = victim(0.1, bias=False)
    found = completed(observation, TOLD, model)
    assert not found.anchored
    direction, truth = found.image[found.determined], images.double()[found.determined]
    factor = truth @ direction / direction.square().sum()
    assert float((factor * direction - truth).norm() / truth.norm()) < 1e-3


def test_the_closed_form_tells_the_true_image_by_what_is_left() -> None:
    model, images, observation = victim(0.1)
    form = attacks.create("first_linear")
    other, _ = mnist(3)
    left = form.unexplained(Puzzle.of(observation, TOLD, model), torch.cat([images, other[2:]]).double())
    assert left[0] < 1e-5
    assert left[1] > 0.1


def test_only_what_is_connected_with_the_anchor_is_determined() -> None:
    truth = torch.outer(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 4.0, -2.0, 1.0])).double()
    left = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)
    vector, known, delta = rank_one(truth * left, left, anchored=True)
    assert known.tolist() == [True, True, False, True]
    torch.testing.assert_close(vector, torch.tensor([0.5, 4.0, 0.0, 1.0]).double())
    torch.testing.assert_close(delta, torch.tensor([1.0, 2.0, 0.0]).double())


def test_several_images_are_declined() -> None:
    model, _, observation = victim(0.3)
    with pytest.raises(NotApplicable, match="one image"):
        completed(replace(observation, batch_size=2), TOLD, model)

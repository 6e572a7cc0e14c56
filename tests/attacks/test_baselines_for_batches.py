"""`fidel` and `spear`, the baselines beside `sparse_dictionary`: what they rebuild, and what they do not claim."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD, mnist, observe, psnr
from torch import Tensor, nn

import attacks
from attacks import NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.closed_form.spear import _drawn
from defenses.stochastic import Dropout
from fedsim import models
from fedsim.scoring.matching import match

GREY = {"mean": (MNIST_MEAN,), "std": (MNIST_STD,)}


def bundled(**keys: object) -> nn.Module:
    spec = {"name": "mlp", "width": 256, "depth": 2, "dropout": 0.0, "activation": "relu", **keys}
    return models.build(spec, input_shape=(1, 28, 28), classes=10, seed=0)


def attack(name: str, model: nn.Module, seen: Observation, **keys: object) -> Reconstruction:
    return attacks.create(name, **keys)(seen, ThreatModel(), model)


def scores(result: Reconstruction, truth: Tensor) -> Tensor:
    order = match(truth, result.images)
    found = [-torch.inf if i is None else psnr(result.images[i], truth[k], MNIST_STD) for k, i in enumerate(order)]
    return torch.tensor(found)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_one_image_is_the_quotient_of_every_unit(activation: str) -> None:
    model = bundled(activation=activation, dropout=0.5)
    images, labels = mnist(1)
    seen = observe(model, images, labels, **GREY)
    result = attack("fidel", model, seen)
    assert scores(result, images).min() >= 100
    alive = int((seen.update["hidden.0.linear.bias"] != 0).sum())
    assert result.details["units"] == [result.details["in_range"]]
    assert 0.9 * alive < result.details["in_range"] <= alive  # rounding spoils those of the least gradients
    assert result.loss < 1e-5


def test_an_image_that_drives_several_units_alone_is_found_and_counted() -> None:
    model = bundled(dropout=0.5)
    images, labels = mnist(6)
    result = attack("fidel", model, observe(model, images, labels, **GREY))
    assert scores(result, images).min() >= 60
    assert min(result.details["units"]) >= 2
    assert not any(result.details["certain"])


def test_where_every_image_drives_every_unit_quotients_are_mixtures() -> None:
    model = bundled(activation="gelu")
    images, labels = mnist(8)
    seen = observe(model, images, labels, **GREY)
    assert scores(attack("fidel", model, seen), images).max() < 40


def test_proportional_deltas_make_mixtures_that_many_units_share() -> None:
    """The case for which nothing that Fidel finds in a batch is called certain."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), Dropout(0.0), nn.Linear(256, 2))
    images, labels = mnist(3)
    result = attack("fidel", model, observe(model, images, labels * 0, classes=2, **GREY))
    nearest = [max(psnr(answer, image, MNIST_STD) for image in images) for answer in result.images]
    wrong = [units for units, score in zip(result.details["units"], nearest) if score < 20]
    assert max(wrong) >= 20  # units that agree on what is none of the images
    assert not any(result.details["certain"])


@pytest.mark.parametrize(("batch", "dropout", "activation"), [(1, 0.5, "relu"), (8, 0.0, "relu"), (8, 0.5, "gelu")])
def test_spear_is_exact_on_small_batches_and_says_so(batch: int, dropout: float, activation: str) -> None:
    model = bundled(dropout=dropout, activation=activation)
    images, labels = mnist(batch)
    result = attack("spear", model, observe(model, images, labels, **GREY))
    assert scores(result, images).min() >= 60
    assert all(result.details["certain"])
    assert result.details["sure_directions"] == (batch if batch > 1 else 0)  # one needs no zeros to be told by


def test_spear_and_sparse_dictionary_find_the_same() -> None:
    model = bundled()
    images, labels = mnist(6)
    seen = observe(model, images, labels, **GREY)
    one, other = attack("spear", model, seen), attack("sparse_dictionary", model, seen)
    order = [index for index in match(one.images, other.images) if index is not None]
    torch.testing.assert_close(other.images[order], one.images, atol=1e-5, rtol=0)


def test_spear_declines_without_zeros_and_is_never_certain_of_what_its_draws_did_not_find() -> None:
    model = bundled(activation="gelu")
    images, labels = mnist(8)
    with pytest.raises(NotApplicable, match="no zeros of dropout or ReLU"):
        attack("spear", model, observe(model, images, labels, **GREY), samples=20_000)
    model = bundled(width=512)
    images, labels = mnist(16)
    few = attack("spear", model, observe(model, images, labels, **GREY), samples=60_000)
    assert 0 < few.details["sure_directions"] < 16
    assert not (torch.tensor(few.details["certain"]) & (scores(few, images) < 55)).any()


def test_what_rows_leave_free_is_at_right_angles_to_them() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    drawn = _drawn(rows, generator)
    assert 0 < drawn.shape[1] < 2048  # most draw a row twice, and leave too much free
    assert (rows @ drawn).abs().amax(0).median() < 1e-9


def test_what_does_not_fit_is_declined() -> None:
    model = bundled()
    images, labels = mnist(4)
    seen = observe(model, images, labels, **GREY)
    update = {name: value for name, value in seen.update.items() if name != "hidden.0.linear.bias"}
    with pytest.raises(NotApplicable, match="a quotient needs the gradient of the bias"):
        attack("fidel", model, replace(seen, update=update))
    lenet = models.build({"name": "lenet"}, input_shape=(1, 28, 28), classes=10, seed=0)
    for name in ("fidel", "spear"):
        with pytest.raises(NotApplicable, match="first layer with parameters is"):
            attack(name, lenet, observe(lenet, images, labels, **GREY))
    with pytest.raises(ValueError, match="spear: samples = 0"):
        attacks.create("spear", samples=0)

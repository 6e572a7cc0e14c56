"""Batches through a linear first layer, by what images look like: with no zeros anywhere, and never called certain."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD, mnist, observe, paper_mlp, psnr
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.closed_form.components import apart, at_right_angles, spikes, whitening
from fedsim import data, models
from fedsim.scoring.matching import match

GREY = {"mean": (MNIST_MEAN,), "std": (MNIST_STD,)}


def bundled(**keys: object) -> nn.Module:
    spec = {"name": "mlp", "width": 256, "depth": 2, "dropout": 0.0, **keys}
    return models.build(spec, input_shape=(1, 28, 28), classes=10, seed=0)


def attack(model: nn.Module, seen: Observation, aggregation: str = "individual", **keys: object) -> Reconstruction:
    return attacks.create("cocktail_party", **keys)(seen, ThreatModel(aggregation=aggregation), model)


def scores(result: Reconstruction, truth: Tensor, std: float = MNIST_STD) -> Tensor:
    """PSNR (dB) of the answer matched to each image; -inf without one."""
    order = match(truth, result.images)
    found = [-torch.inf if i is None else psnr(result.images[i], truth[k], std) for k, i in enumerate(order)]
    return torch.tensor(found)


@pytest.mark.parametrize(("dropout", "train"), [(0.0, True), (0.5, True), (0.5, False)])
def test_digits_are_rebuilt_from_a_batch_of_32_whether_or_not_anything_was_dropped(dropout: float, train: bool) -> None:
    model = bundled(width=512, dropout=dropout)
    images, labels = mnist(32)
    result = attack(model, observe(model, images, labels, train=train, **GREY))
    found = scores(result, images)
    assert (found >= 20).sum() >= 30
    assert found.median() >= 35
    assert not any(result.details["certain"])
    assert not any(result.details["determined"])
    assert result.details["rank"] == 32


def test_what_sparse_dictionary_declines_is_rebuilt_of_photographs_too() -> None:
    dataset = data.load({"name": "photos"})
    model = models.build({"name": "mlp", "width": 256}, input_shape=(3, 32, 32), classes=len(dataset.classes), seed=0)
    images, labels = dataset.normalise(dataset.test_images[:200:25]), dataset.test_labels[:200:25]
    observation = observe(model, images, labels, mean=dataset.mean, std=dataset.std, classes=len(dataset.classes))
    with pytest.raises(NotApplicable, match="no zeros"):
        attacks.create("sparse_dictionary")(observation, ThreatModel(), model)
    found = scores(attack(model, observation), images, float(torch.tensor(dataset.std).mean()))
    assert (found >= 20).sum() >= 7


def test_edges_tell_more_than_pixels() -> None:
    model = bundled()
    images, labels = mnist(12)
    observation = observe(model, images, labels, **GREY)
    edges, pixels = (scores(attack(model, observation, signal=signal), images) for signal in ("edges", "pixels"))
    assert edges.median() >= pixels.median() + 10


def test_without_a_bias_an_image_fills_the_range_of_pixels_the_right_way_round() -> None:
    model = bundled(bias=False)
    images, labels = mnist(12)
    result = attack(model, observe(model, images, labels, **GREY))
    order = [index for index in match(images, result.images) if index is not None]
    assert len(order) == 12
    likeness = nn.functional.cosine_similarity(result.images[order].flatten(1), images.flatten(1))
    assert likeness.min() > 0.9


@pytest.mark.parametrize("local", [None, LocalTraining(learning_rate=0.1)])
def test_a_sum_over_clients_is_one_larger_batch(local: LocalTraining | None) -> None:
    model = bundled()
    images, labels = mnist(16)
    clients = [observe(model, images[k, None], labels[k, None], seed=k, local=local, **GREY) for k in range(16)]
    update = {name: sum(client.update[name] for client in clients) / 16 for name in clients[0].update}
    summed = replace(clients[0], update=update, batch_size=16, labels=labels, noise=None)
    found = scores(attack(model, summed, aggregation="sum_of_16"), images)
    assert (found >= 20).sum() >= 15


def test_large_images_are_judged_by_some_of_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attacks.closed_form.cocktail_party.MOST", 500)
    model = bundled()
    images, labels = mnist(6)
    assert scores(attack(model, observe(model, images, labels, **GREY)), images).median() >= 20


def test_neither_labels_nor_the_number_of_images_need_be_known_and_the_answer_is_the_same_every_time() -> None:
    model = bundled()
    images, labels = mnist(6)
    observation = replace(observe(model, images, labels, **GREY), batch_size=None, labels=None)
    first = attack(model, observation)
    assert len(first.images) == 6
    assert scores(first, images).min() >= 20
    assert torch.equal(first.images, attack(model, observation).images)


def test_an_image_that_stands_twice_in_a_batch_is_given_once() -> None:
    model = bundled()
    images, labels = mnist(5)
    images, labels = torch.cat([images, images[:1]]), torch.cat([labels, labels[:1]])
    result = attack(model, observe(model, images, labels, **GREY))
    assert result.details["below_floor"] == 1
    assert len(result.images) == len(result.details["certain"]) == 6


def test_noise_of_a_known_kind_does_not_make_it_fail_but_worse() -> None:
    torch.manual_seed(0)
    model = bundled()
    images, labels = mnist(8)
    observation = observe(model, images, labels, **GREY)
    update = {k: v + 0.3 * v.square().mean().sqrt() * torch.randn(v.shape) for k, v in observation.update.items()}
    clear, blurred = attack(model, observation), attack(model, replace(observation, update=update))
    assert scores(blurred, images).median() < scores(clear, images).median()
    assert blurred.loss > clear.loss


def test_what_does_not_fit_is_declined() -> None:
    model = bundled()
    images, labels = mnist(4)
    observation = observe(model, images, labels, **GREY)
    with pytest.raises(NotApplicable, match="no rank to spare"):
        attack(model, replace(observation, batch_size=256))
    lenet = models.build({"name": "lenet"}, input_shape=(1, 28, 28), classes=10, seed=0)
    with pytest.raises(NotApplicable, match="first layer with parameters is"):
        attack(lenet, observe(lenet, images, labels, **GREY))
    one = paper_mlp(dropout=0.0, inputs=1, width=16, bias=True)
    with pytest.raises(NotApplicable, match="too few edges"):
        attack(one, observe(one, torch.rand(1, 1, 1, 1), labels[:1]))
    for key, value in {"signal": "corners", "independence": -1.0, "iterations": 0}.items():
        with pytest.raises(ValueError, match=f"cocktail_party: {key} = "):
            attacks.create("cocktail_party", **{key: value})


def test_spiky_sources_that_were_mixed_are_found_again() -> None:
    """Not quite uncorrelated ones: where two are far from zero they often have the same sign."""
    generator = torch.Generator().manual_seed(0)
    shared, own = torch.rand(4000, generator=generator), torch.rand(5, 4000, generator=generator)
    signs = (shared - 0.5).sign() * (own - 0.15).sign()
    sources = torch.randn(5, 4000, generator=generator).square() * signs
    assert torch.corrcoef(sources).fill_diagonal_(0).max() > 0.1
    mixed = torch.randn(5, 5, generator=generator) @ sources
    white = whitening(mixed)
    whitened = white @ mixed
    torch.testing.assert_close(whitened @ whitened.T / 4000, torch.eye(5), atol=1e-3, rtol=0)
    first = at_right_angles(whitened, generator=generator)
    torch.testing.assert_close(first @ first.T, torch.eye(5), atol=1e-4, rtol=0)
    last = apart(whitened, first, independence=0.3, iterations=400, penalty=lambda directions: directions.new_zeros(()))
    assert spikes(last @ whitened).sum() < spikes(first @ whitened).sum()

    def worst(directions: Tensor) -> float:
        unit = nn.functional.normalize(sources, dim=1)
        return float((nn.functional.normalize(directions @ whitened, dim=1) @ unit.T).abs().amax(0).min())

    assert worst(last) > 0.99 > worst(first)

"""Batches through a linear first layer: exact where dropout or ReLU leaves zeros, and never wrong without saying so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD, mnist, observe, paper_mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.closed_form.low_rank import low_rank
from defenses.client.optimizers.sgd import SGD
from defenses.stochastic import Dropout
from fedsim import data, models
from fedsim.federation.start import train_centrally
from fedsim.random import rng_for

GREY = {"mean": (MNIST_MEAN,), "std": (MNIST_STD,)}


def bundled(**keys: object) -> nn.Module:
    spec = {"name": "mlp", "width": 256, "depth": 2, "dropout": 0.5, **keys}
    return models.build(spec, input_shape=(1, 28, 28), classes=10, seed=0)


def own() -> nn.Module:
    """Not one of ours: tanh, layer norm, dropout of its own rate, and layers that no closed form could invert."""
    torch.manual_seed(0)
    first = [nn.Flatten(), nn.Linear(784, 320), nn.Tanh(), Dropout(0.4), nn.LayerNorm(320)]
    return nn.Sequential(*first, nn.Linear(320, 50), nn.SiLU(), Dropout(0.2), nn.Linear(50, 10))


def attack(model: nn.Module, observation: Observation, **threat: str) -> Reconstruction:
    return attacks.create("sparse_dictionary")(observation, ThreatModel(**threat), model)


def scores(result: Reconstruction, truth: Tensor, std: float = MNIST_STD) -> Tensor:
    """PSNR (dB) of each image of an answer against the true image that is nearest to it."""
    errors = torch.cdist(std * result.images.double().flatten(1), std * truth.double().flatten(1))
    return -10 * (errors.amin(1).square() / truth[0].numel()).clamp_min(1e-16).log10()


def certain(result: Reconstruction) -> Tensor:
    return torch.tensor(result.details["certain"])


def never_wrong_in_silence(model: nn.Module, observation: Observation, truth: Tensor, std: float = MNIST_STD) -> None:
    try:
        result = attack(model, observation)
    except NotApplicable:
        return
    assert result.images.isfinite().all()
    assert len(result.details["certain"]) == len(result.images)
    assert (scores(result, truth, std)[certain(result)] >= 55).all()


def exact(model: nn.Module, observation: Observation, truth: Tensor) -> Reconstruction:
    result = attack(model, observation)
    assert result.images.shape == truth.shape
    assert certain(result).all()
    assert scores(result, truth).min() >= 60
    distances = torch.cdist(result.images.flatten(1), truth.flatten(1))
    assert sorted(distances.argmin(1).tolist()) == list(range(len(truth)))  # every image, none twice
    assert result.loss < 1e-5
    return result


VICTIMS = {
    "gelu": lambda: bundled(),
    "relu": lambda: bundled(activation="relu"),
    "relu without dropout": lambda: bundled(activation="relu", dropout=0.0),
    "gelu at p = 0.3": lambda: bundled(dropout=0.3),
    "one hidden layer": lambda: bundled(depth=1),
    "of the paper, with biases": lambda: paper_mlp(dropout=0.5, width=256, bias=True),
    "own": own,
}


@pytest.mark.parametrize("name", VICTIMS)
def test_whole_batches_are_exact(name: str) -> None:
    torch.manual_seed(0)
    model = VICTIMS[name]()
    images, labels = mnist(8)
    result = exact(model, observe(model, images, labels, **GREY), images)
    assert result.details["rank"] == result.details["sure_directions"] == 8
    assert result.details["below_floor"] == 0


def test_the_number_of_images_need_not_be_known() -> None:
    model = bundled()
    images, labels = mnist(12)
    observation = replace(observe(model, images, labels, **GREY), batch_size=None)
    exact(model, observation, images)


def test_a_batch_beyond_the_first_sketch_is_found_without_its_size() -> None:
    """The singular values are looked at in portions; 40 images are more than the first portion holds."""
    model = bundled(activation="relu", width=512)
    images, labels = mnist(40)
    exact(model, replace(observe(model, images, labels, **GREY), batch_size=None), images)


def test_an_answer_is_the_same_every_time_and_independent_of_the_neighbours() -> None:
    model = bundled()
    images, labels = mnist(6)
    one, other = observe(model, images, labels, **GREY), observe(model, images.flip(2), labels, seed=1, **GREY)
    alone = attack(model, one).images
    first, _ = attacks.create("sparse_dictionary").run([one, other], ThreatModel(), model)
    assert isinstance(first, Reconstruction)
    assert torch.equal(first.images, alone)


@pytest.mark.parametrize(
    "local",
    [
        LocalTraining(learning_rate=0.1),
        LocalTraining(steps=3, learning_rate=0.1),
        LocalTraining(steps=3, learning_rate=0.05, optimizer=SGD(momentum=0.9, weight_decay=0.01)),
    ],
)
def test_several_local_steps_are_one_larger_batch(local: LocalTraining) -> None:
    model = bundled(width=384)
    images, labels = mnist(4 * local.steps)
    exact(model, observe(model, images, labels, local=local, **GREY), images)


@pytest.mark.parametrize("local", [None, LocalTraining(learning_rate=0.1)])
def test_the_sum_of_eight_clients_is_one_larger_batch(local: LocalTraining | None) -> None:
    model = bundled()
    images, labels = mnist(8)
    clients = [observe(model, images[k, None], labels[k, None], seed=k, local=local, **GREY) for k in range(8)]
    update = {name: sum(client.update[name] for client in clients) / 8 for name in clients[0].update}
    summed = replace(clients[0], update=update, batch_size=8, labels=labels, noise=None)
    result = attack(model, summed, aggregation="sum_of_8")
    assert certain(result).all()
    assert scores(result, images).min() >= 60
    distances = torch.cdist(result.images.flatten(1), images.flatten(1))
    assert sorted(distances.argmin(1).tolist()) == list(range(8))
    with pytest.raises(NotApplicable, match="needs aggregation individual, but the threat model says sum_of_8"):
        attacks.create("first_linear")(summed, ThreatModel(aggregation="sum_of_8"), model)


def test_unknown_local_training_is_declined_and_a_wrong_weight_decay_is_never_believed() -> None:
    model = bundled()
    images, labels = mnist(4)
    observation = observe(model, images, labels, local=LocalTraining(optimizer=SGD(weight_decay=0.1)), **GREY)
    with pytest.raises(NotApplicable, match="local_training known"):
        attack(model, replace(observation, local=None))
    never_wrong_in_silence(model, replace(observation, local=LocalTraining()), images)


def test_clipping_changes_nothing() -> None:
    model = bundled()
    images, labels = mnist(8)
    observation = observe(model, images, labels, **GREY)
    exact(model, replace(observation, update={k: v * 1e-3 for k, v in observation.update.items()}), images)


def noised(share: float, value: Tensor) -> Tensor:
    return value + share * value.norm() / value.numel() ** 0.5 * torch.randn(value.shape)


def pruned(value: Tensor) -> Tensor:
    return value * (value.abs() >= value.abs().flatten().quantile(0.5))


SPOILS = {
    "noise of 1e-5": lambda value: noised(1e-5, value),
    "noise of 1e-3": lambda value: noised(1e-3, value),
    "noise of 1e-1": lambda value: noised(1e-1, value),
    "noise of 10": lambda value: noised(10, value),
    "half of it pruned": pruned,
    "bfloat16": lambda value: value.bfloat16().float(),
    "float16": lambda value: value.half().float(),
    "sign": lambda value: value.sign(),
    "one entry lost": lambda value: value.flatten().index_fill(0, torch.tensor([5]), 0).view_as(value),
}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_degraded_update_is_never_wrong_in_silence(spoil: str, activation: str) -> None:
    torch.manual_seed(0)
    model = bundled(activation=activation)
    images, labels = mnist(6)
    observation = observe(model, images, labels, **GREY)
    observation = replace(observation, update={k: SPOILS[spoil](v) for k, v in observation.update.items()})
    never_wrong_in_silence(model, observation, images)


def test_two_classes_and_one_hidden_relu_layer_are_not_mistaken() -> None:
    """All deltas are then multiples of one vector on their supports, so that differences of them are sparse too."""
    for seed in range(6):
        torch.manual_seed(seed)
        model = paper_mlp(dropout=0.0, inputs=784, width=256, classes=2, bias=True)
        single = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), Dropout([0.0, 0.5][seed % 2]))
        model = nn.Sequential(*single, nn.Linear(256, 2))
        images, labels = mnist(6)
        never_wrong_in_silence(model, observe(model, images, labels % 2, seed=seed, classes=2, **GREY), images)


def test_an_image_that_stands_twice_in_a_batch_is_given_once() -> None:
    model = bundled()
    images, labels = mnist(5)
    images, labels = torch.cat([images, images[:1]]), torch.cat([labels, labels[:1]])
    result = attack(model, observe(model, images, labels, **GREY))
    assert result.details["rank"] == 5
    assert result.details["below_floor"] == 1
    assert certain(result).tolist() == [True] * 5 + [False]
    assert scores(result, images)[:5].min() >= 60
    assert not result.images[5].any()


def test_on_a_trained_model_what_is_certain_is_right_and_the_rest_is_counted() -> None:
    model = bundled(activation="relu")
    images, labels = mnist(800)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(150):
        optimiser.zero_grad()
        batch = slice(step * 32 % 768, step * 32 % 768 + 32)
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimiser.step()
    model.requires_grad_(True).zero_grad(set_to_none=True)
    images, labels = images[-24:], labels[-24:]
    result = attack(model, observe(model, images, labels, **GREY))
    assert result.images.shape == images.shape
    assert result.details["below_floor"] == 24 - result.details["rank"]
    assert (scores(result, images)[certain(result)] >= 60).all()
    assert certain(result).sum() >= 0.8 * result.details["rank"]


def test_a_mixture_with_just_enough_zeros_does_not_end_the_search() -> None:
    """Sixteen clients of four images on a trained network: deltas of very different sizes, some of them much alike."""
    dataset = data.load({"name": "mnist"})
    model = bundled(width=512, depth=3)
    train_centrally(model, dataset, steps=300, batch_size=32, learning_rate=0.1, seed=0)
    order = torch.from_numpy(rng_for(0, "victims").permutation(len(dataset.test_images))[:64].copy())
    images, labels = dataset.normalise(dataset.test_images[order]), dataset.test_labels[order]
    fields = {"mean": dataset.mean, "std": dataset.std}
    clients = [
        observe(model, images[k : k + 4], labels[k : k + 4], seed=k, local=LocalTraining(), **fields)
        for k in range(0, 64, 4)
    ]
    update = {name: sum(client.update[name] for client in clients) / 16 for name in clients[0].update}
    result = attack(model, replace(clients[0], update=update, batch_size=64, labels=labels), aggregation="sum_of_16")
    found = scores(result, images, dataset.std[0])
    assert (found >= 40).sum() >= 58
    assert (found[certain(result)] >= 55).all()


def test_without_a_bias_directions_are_right_and_nothing_is_certain() -> None:
    model = bundled(bias=False)
    images, labels = mnist(6)
    result = attack(model, observe(model, images, labels, **GREY))
    assert not certain(result).any()
    assert "no bias" in result.details["reason"]
    assert result.details["sure_directions"] == 6
    likeness = nn.functional.normalize(result.images.flatten(1)) @ nn.functional.normalize(images.flatten(1)).T
    assert likeness.amax(1).min() > 1 - 1e-5  # the sign included
    pixels = result.images * MNIST_STD + MNIST_MEAN
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6


def test_an_update_without_the_bias_is_like_a_layer_without() -> None:
    model = bundled()
    images, labels = mnist(4)
    observation = observe(model, images, labels, **GREY)
    update = {name: value for name, value in observation.update.items() if name != "hidden.0.linear.bias"}
    assert not certain(attack(model, replace(observation, update=update))).any()


def test_dropout_of_the_pixels_stays_in_the_images_and_is_said() -> None:
    model = bundled()
    images, labels = mnist(4)
    noisy = nn.Sequential(Dropout(0.1), model)
    result = attack(noisy, observe(noisy, images, labels, **GREY))
    assert not certain(result).any()
    assert "before the first layer" in result.details["reason"]


def test_images_beyond_the_range_of_pixels_are_not_certain() -> None:
    model = bundled()
    images, labels = mnist(4)
    for scale, sure in ((1.0, True), (1.1, False)):  # the digits' strokes are white
        observation = observe(model, scale * images, labels, **GREY)
        assert certain(attack(model, observation)).tolist() == [sure] * 4


@pytest.mark.parametrize(("noise", "sure"), [(3e-5, True), (1e-3, False)])
def test_images_are_certain_to_60_db(noise: float, sure: bool) -> None:
    """Noise that leaves the zeros where they are: every direction is sure, and the error decides."""
    torch.manual_seed(0)
    model = bundled()
    images, labels = mnist(4)
    observation = observe(model, images, labels, **GREY)
    update = {name: value * (1 + noise * torch.randn_like(value)) for name, value in observation.update.items()}
    result = attack(model, replace(observation, update=update))
    assert result.details["sure_directions"] == 4
    assert certain(result).tolist() == [sure] * 4
    assert (scores(result, images)[certain(result)] >= 60).all()


def test_no_zeros_no_answer() -> None:
    images, labels = mnist(8)
    model = bundled(dropout=0.0)
    with pytest.raises(NotApplicable, match="no zeros of dropout or ReLU"):
        attack(model, observe(model, images, labels, **GREY))
    model = bundled()  # a client in evaluation mode drops nothing
    with pytest.raises(NotApplicable, match="no zeros of dropout or ReLU"):
        attack(model, observe(model, images, labels, train=False, **GREY), client_mode="eval")


def test_what_does_not_fit_is_declined() -> None:
    images, labels = mnist(8)
    model = bundled()
    observation = observe(model, images, labels, **GREY)
    with pytest.raises(NotApplicable, match="no rank to spare"):
        attack(model, replace(observation, batch_size=256))
    with pytest.raises(NotApplicable, match="update lacks hidden"):
        attack(model, replace(observation, update={"head.bias": observation.update["head.bias"]}))
    first = {name: torch.zeros_like(v) if "hidden.0" in name else v for name, v in observation.update.items()}
    with pytest.raises(NotApplicable, match=r"lacks hidden\.0\.linear\.weight: zero"):
        attack(model, replace(observation, update=first))
    broken = {**observation.update, "head.bias": torch.full((10,), torch.nan)}
    with pytest.raises(NotApplicable, match="not finite"):
        attack(model, replace(observation, update=broken))
    lenet = models.build({"name": "lenet"}, input_shape=(1, 28, 28), classes=10, seed=0)
    with pytest.raises(NotApplicable, match="first layer with parameters is"):
        attack(lenet, observe(lenet, images, labels, **GREY))
    torch.nn.init.zeros_(model.head.weight)  # type: ignore[union-attr, arg-type]
    with pytest.raises(NotApplicable, match="below a head initialised with zeros"):
        attack(model, observe(model, images, labels, **GREY))
    with pytest.raises(ValueError, match="starts"):
        attacks.create("sparse_dictionary", starts=0)


@settings(deadline=None, max_examples=15)
@given(
    batch=st.integers(1, 12),
    side=st.integers(2, 9),
    channels=st.integers(1, 3),
    width=st.integers(8, 160),
    rate=st.floats(0, 0.8),
    activation=st.sampled_from([nn.GELU, nn.ReLU, nn.Tanh]),
    seed=st.integers(0, 99),
)
def test_whatever_the_shape_what_is_certain_is_right(
    batch: int, side: int, channels: int, width: int, rate: float, activation: type[nn.Module], seed: int
) -> None:
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(channels * side * side, width), activation(), Dropout(rate)]
    model = nn.Sequential(*layers, nn.Linear(width, width), activation(), nn.Linear(width, 3))
    images = torch.rand(batch, channels, side, side) * 2 - 1
    fields = {"mean": (0.5,) * channels, "std": (0.5,) * channels, "classes": 3}
    observation = observe(model, images, torch.arange(batch) % 3, seed=seed, **fields)
    never_wrong_in_silence(model, observation, images, 0.5)
    never_wrong_in_silence(model, replace(observation, batch_size=None), images, 0.5)


@settings(deadline=None, max_examples=15)
@given(rows=st.integers(60, 90), columns=st.integers(60, 90), rank=st.integers(1, 20), seed=st.integers(0, 99))
def test_the_rank_is_that_of_the_signal(rows: int, columns: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in (rows, columns))
    matrix = left @ right.T + 1e-7 * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    for expected in (None, rank, rank + 3):
        found = low_rank(matrix, expected=expected, generator=generator)
        assert found.rank == rank
        torch.testing.assert_close(found.left * found.values @ found.right.T, left @ right.T, atol=1e-5, rtol=0)
        assert 0.5e-7 < float(found.noise.median()) < 2e-7

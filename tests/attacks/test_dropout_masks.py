"""Masks read off an update are those that the client drew, or they are unread, with a reason."""

import dataclasses

import pytest
import torch
from attack_victims import mnist, observe, paper_mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacks import LocalTraining, NotApplicable, Observation
from attacks.closed_form.masks import Masks, read_masks
from attacks.twin import attacker_copy
from attacks.updates import lacks
from defenses.client.optimizers.sgd import SGD
from defenses.stochastic import AlphaDropout, Dropout, FeatureDropout
from fedsim.models import build


def reading(model: nn.Module, observation: Observation, mode: str = "train") -> Masks:
    return read_masks(attacker_copy(model, observation.state, client_mode=mode), observation)  # type: ignore[arg-type]


def agree(masks: Masks, observation: Observation) -> bool:
    assert observation.noise is not None
    return all(torch.equal(mask, observation.noise[path]) for path, mask in masks.read.items())


def victim(rate: float, local: LocalTraining | None = None) -> tuple[nn.Module, Observation]:
    torch.manual_seed(0)
    model = paper_mlp(dropout=rate, inputs=64, width=128, classes=4)
    return model, observe(model, torch.rand(1, 1, 8, 8), torch.tensor([1]), classes=4, local=local)


def changed(observation: Observation, change: object) -> Observation:
    update = {name: change(value) for name, value in observation.update.items()}  # type: ignore[operator]
    return dataclasses.replace(observation, update=update)


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.75])
@pytest.mark.parametrize(
    "local", [None, LocalTraining(), LocalTraining(learning_rate=0.01), LocalTraining(optimizer=SGD(weight_decay=1e-2))]
)
def test_every_mask_of_the_mlp_is_read(rate: float, local: LocalTraining | None) -> None:
    images, labels = mnist(1)
    for bias in (False, True):
        model = build({"name": "mlp", "bias": bias, "dropout": rate}, input_shape=(1, 28, 28), classes=10, seed=0)
        observation = observe(model, images, labels, local=local)
        masks = reading(model, observation)
        assert masks.read.keys() == observation.noise.keys() == masks.certain  # type: ignore[union-attr]
        assert agree(masks, observation)


@pytest.mark.parametrize("name", ["lenet", "resnet18"])
def test_the_mask_before_a_convolutional_models_head_is_read(name: str) -> None:
    model = build({"name": name, "dropout": 0.5}, input_shape=(3, 32, 32), classes=10, seed=0)
    observation = observe(model, torch.rand(1, 3, 32, 32), torch.tensor([3]))
    masks = reading(model, observation)
    assert sorted(masks.read) == ["dropout"]
    assert agree(masks, observation)


def test_tokens_share_a_weight_so_nothing_of_a_vit_is_read() -> None:
    spec = {"name": "vit", "dropout": 0.5, "width": 32, "heads": 4, "mlp": 32, "depth": 1}
    model = build(spec, input_shape=(3, 32, 32), classes=10, seed=0)
    masks = reading(model, observe(model, torch.rand(1, 3, 32, 32), torch.tensor([3])))
    assert not masks.read
    assert len(masks.unread) == 5


class Mixed(nn.Module):
    """Dropout of channels between convolutions, of channels before a linear layer, and of units before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.channels = FeatureDropout(0.5)
        self.second = nn.Conv2d(8, 64, 3, stride=4)
        self.whole = FeatureDropout(0.5)
        self.hidden = nn.Linear(256, 96)
        self.late = Dropout(0.25)
        self.head = nn.Linear(96, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.channels(torch.tanh(self.first(images)))
        x = self.whole(torch.sigmoid(self.second(x)))
        x = self.late(torch.tanh(self.hidden(x.flatten(1))))
        return self.head(x)


def test_channels_are_read_where_they_are_flattened_into_a_linear_layer() -> None:
    torch.manual_seed(0)
    model = Mixed()
    observation = observe(model, torch.rand(1, 1, 8, 8), torch.tensor([3]), classes=4)
    masks = reading(model, observation)
    assert sorted(masks.read) == ["late", "whole"]
    assert masks.read["whole"].shape == (1, 64, 1, 1)
    assert agree(masks, observation)
    assert "channels" in masks.unread["channels"]


def test_a_dead_unit_reads_as_dropped_and_no_dropped_unit_as_passed() -> None:
    images, labels = mnist(1)
    spec = {"name": "mlp", "bias": False, "dropout": 0.25, "activation": "relu"}
    model = build(spec, input_shape=(1, 28, 28), classes=10, seed=0)
    observation = observe(model, images, labels)
    masks = reading(model, observation)
    assert len(masks.read) == 3
    assert not masks.certain
    for path, mask in masks.read.items():
        assert (mask <= observation.noise[path]).all()  # type: ignore[index]
        assert (mask < observation.noise[path]).any()  # type: ignore[index]


def test_clipping_changes_nothing() -> None:
    model, observation = victim(0.5)
    masks = reading(model, changed(observation, lambda value: value * 1e-3))
    assert len(masks.read) == 3
    assert agree(masks, observation)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value + 1e-6 * torch.randn_like(value),  # noise fills the zeros in
        lambda value: value * (value.abs() >= value.abs().flatten().quantile(0.999)),  # pruning adds some
        torch.zeros_like,
    ],
)
def test_implausible_zeros_are_unread(change: object) -> None:
    model, observation = victim(0.5)
    masks = reading(model, changed(observation, change))
    assert not masks.read
    assert len(masks.unread) == 3
    assert all("units" in reason or "is zero" in reason for reason in masks.unread.values())


def test_a_lacking_layer_is_unread() -> None:
    model, observation = victim(0.5)
    update = {name: value for name, value in observation.update.items() if name != "7.weight"}
    masks = reading(model, dataclasses.replace(observation, update=update))
    assert masks.unread == {"6": lacks("7.weight")}


def test_masks_of_several_images_lie_over_each_other() -> None:
    model, observation = victim(0.5)
    with pytest.raises(NotApplicable, match="batch"):
        reading(model, dataclasses.replace(observation, batch_size=2))
    with pytest.raises(NotApplicable, match="batch"):
        reading(model, dataclasses.replace(observation, kind="delta", local=LocalTraining(steps=2)))


def test_where_nothing_is_drawn_nothing_is_read() -> None:
    for rate, mode in ((0.0, "train"), (0.5, "eval")):
        model, observation = victim(rate)
        masks = reading(model, observation, mode)
        assert not masks.read
        assert not masks.unread


def test_reading_leaves_the_global_random_state_alone() -> None:
    model, observation = victim(0.5)
    before = torch.get_rng_state()
    reading(model, observation)
    assert torch.equal(before, torch.get_rng_state())


def test_a_weight_that_two_layers_share_is_unread() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), Dropout(0.5), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4)
    )
    model[4].weight = model[1].weight
    masks = reading(model, observe(model, torch.rand(1, 1, 8, 8), torch.tensor([1]), classes=4))
    assert not masks.read
    assert list(masks.unread) == ["3"]


@settings(deadline=None, max_examples=15)
@given(
    width=st.integers(2, 40),
    classes=st.integers(2, 6),
    rate=st.floats(0.05, 0.9),
    side=st.integers(1, 5),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_is_read_is_right_whatever_the_shape(
    width: int, classes: int, rate: float, side: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(side * side, width, bias=bias), nn.Tanh(), Dropout(rate), nn.Linear(width, classes)
    )
    images, labels = torch.rand(1, 1, side, side), torch.tensor([seed % classes])
    observation = observe(model, images, labels, seed=seed, classes=classes)
    masks = reading(model, observation)
    assert agree(masks, observation)
    if masks.unread:  # only where the whole layer was dropped, or the draw was a chance of one in a million
        assert observation.noise is not None
        assert not observation.noise["3"].any()


def test_dropout_that_leaves_no_zeros_is_unread() -> None:
    torch.manual_seed(0)
    narrow = (nn.Flatten(), nn.Linear(64, 5), nn.SELU(), AlphaDropout(0.3), nn.Linear(5, 4))
    model = nn.Sequential(*narrow)
    masks = reading(model, observe(model, torch.rand(1, 1, 8, 8), torch.tensor([1]), classes=4))
    assert masks.unread == {"3": "3 is no dropout: its noise leaves no zeros"}

"""One image through a first linear layer: exact with and without bias, at any dropout rate, or not called certain."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD, mnist, observe, paper_mlp, psnr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel
from defenses.client.optimizers.sgd import SGD
from defenses.stochastic import Dropout
from fedsim.models import build


def attack(model: nn.Module, observation: Observation, **threat: str) -> Reconstruction:
    return attacks.create("first_linear")(observation, ThreatModel(**threat), model)  # type: ignore[arg-type]


def outcome(model: nn.Module, observation: Observation) -> Reconstruction | NotApplicable:
    [result] = attacks.create("first_linear").run([observation], ThreatModel(), model)
    return result


def certain(result: Reconstruction) -> bool:
    return all(result.details["certain"])


def tiny(
    *,
    bias: bool,
    rate: float = 0.5,
    batch: int = 1,
    repeat: int = 1,
    local: LocalTraining | None = None,
    width: int = 64,
    seed: int = 3,
) -> tuple[nn.Module, Tensor, Observation]:
    """An 8 x 8 victim; `repeat` gives the same image to each local step."""
    torch.manual_seed(seed)
    model = paper_mlp(dropout=rate, inputs=64, width=width, classes=4, bias=bias)
    images = torch.rand(batch, 1, 8, 8) * 2 - 1
    data, labels = images.repeat(repeat, 1, 1, 1), (torch.arange(batch) % 4).repeat(repeat)
    return model, images, observe(model, data, labels, mean=(0.5,), std=(0.5,), classes=4, local=local)


def changed(observation: Observation, change: Callable[[str, Tensor], Tensor]) -> Observation:
    update = {name: change(name, value) for name, value in observation.update.items()}
    return dataclasses.replace(observation, update=update)


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("bias", [False, True])
def test_a_digit_comes_back_exactly_through_the_bundled_mlp(bias: bool, rate: float) -> None:
    images, labels = mnist(1)
    spec = {"name": "mlp", "bias": bias, "dropout": rate, "width": 512 if rate else 256}
    model = build(spec, input_shape=(1, 28, 28), classes=10, seed=0)
    observation = observe(model, images, labels, mean=(MNIST_MEAN,), std=(MNIST_STD,))
    result = attack(model, observation)
    assert psnr(result.images, images, MNIST_STD) >= 100
    assert certain(result)
    assert result.details["route"] == ("bias" if bias else "length")
    assert result.labels.tolist() == labels.tolist()  # type: ignore[union-attr]
    for path, mask in (result.noise or {}).items():
        assert torch.equal(mask, observation.noise[path])  # type: ignore[index]
    assert len(result.noise or {}) == (3 if rate else 0)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_float32_weight_delta_is_nearly_as_good(bias: bool, activation: str) -> None:
    images, labels = mnist(2)
    spec = {"name": "mlp", "bias": bias, "dropout": 0.5, "activation": activation, "width": 256, "depth": 2}
    model = build(spec, input_shape=(1, 28, 28), classes=10, seed=0)
    for local in (LocalTraining(), LocalTraining(learning_rate=0.01, optimizer=SGD(momentum=0.9, weight_decay=1e-3))):
        observation = observe(model, images[1:], labels[1:], mean=(MNIST_MEAN,), std=(MNIST_STD,), local=local)
        result = attack(model, observation)
        assert psnr(result.images, images[1:], MNIST_STD) >= 80
        assert certain(result)


class Wide(nn.Module):
    """A first linear layer, a convolution over what it makes, and a head: no other dropout mask can be read."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(192, 64, bias=bias)
        self.drop = nn.Dropout(0.3)
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(144, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.tanh(self.conv(self.drop(torch.tanh(self.first(images.flatten(1)))).unflatten(1, (1, 8, 8))))
        return self.head(x.flatten(1))


def test_with_a_bias_it_does_not_matter_what_follows() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 8, 8)
    fields = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "classes": 5}
    model = Wide(bias=True)
    result = attack(model, observe(model, images, torch.tensor([2]), **fields))  # type: ignore[arg-type]
    assert psnr(result.images, images, 1) >= 100
    assert certain(result)
    assert result.noise is None
    model = Wide(bias=False)
    with pytest.raises(NotApplicable, match="every mask"):
        attack(model, observe(model, images, torch.tensor([2]), **fields))  # type: ignore[arg-type]


def test_the_label_stands_in_the_update() -> None:
    model, images, observation = tiny(bias=False)
    expected, observation = observation.labels, dataclasses.replace(observation, labels=None)
    result = attack(model, observation, labels="inferred")
    assert torch.equal(result.labels, expected)  # type: ignore[arg-type]
    assert psnr(result.images, images, 0.5) >= 100


@pytest.mark.parametrize("seed", range(4))
def test_a_wrong_label_is_noticed(seed: int) -> None:
    model, _, observation = tiny(bias=False, seed=seed)
    observation = dataclasses.replace(observation, labels=torch.tensor([1]))
    result = outcome(model, observation)
    if isinstance(result, NotApplicable):
        assert "no length" in str(result)
    else:
        assert not certain(result)


def test_the_batch_size_need_not_be_known() -> None:
    for bias in (False, True):
        model, images, observation = tiny(bias=bias)
        result = attack(model, dataclasses.replace(observation, batch_size=None), batch_size="unknown")
        assert psnr(result.images, images, 0.5) >= 100
        model, images, observation = tiny(bias=bias, batch=2)
        with pytest.raises(NotApplicable, match="batch"):
            attack(model, dataclasses.replace(observation, batch_size=None), batch_size="unknown")


def test_several_steps_on_one_image_are_still_of_rank_one() -> None:
    local = LocalTraining(steps=3, optimizer=SGD(momentum=0.9, weight_decay=1e-2))
    model, images, observation = tiny(bias=True, repeat=3, local=local)
    result = attack(model, observation)
    assert result.images.shape == (3, 1, 8, 8)
    assert psnr(result.images, images.expand(3, -1, -1, -1), 0.5) >= 80
    assert result.details["certain"] == [True, False, False]
    model, images, observation = tiny(bias=False, repeat=3, local=local)
    with pytest.raises(NotApplicable, match="no bias"):
        attack(model, observation)


@pytest.mark.parametrize("bias", [False, True])
def test_steps_on_different_images_are_declined(bias: bool) -> None:
    model, _, observation = tiny(bias=bias, batch=3, local=LocalTraining(steps=3))
    with pytest.raises(NotApplicable, match="batch"):
        attack(model, observation)


@pytest.mark.parametrize("bias", [False, True])
def test_a_clipped_update_is_as_good(bias: bool) -> None:
    model, images, observation = tiny(bias=bias)
    result = attack(model, changed(observation, lambda name, value: 1e-3 * value))
    assert psnr(result.images, images, 0.5) >= 100
    assert certain(result)


def test_parameters_clipped_each_by_itself_are_noticed() -> None:
    model, images, observation = tiny(bias=True)
    result = attack(model, changed(observation, lambda name, value: value / value.norm()))
    assert psnr(result.images, images, 0.5) < 40
    assert not certain(result)
    assert result.details["determined"] == [False]
    assert attack(model, observation).details["determined"] == [True]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("noise", [0.01, 1.0, 100.0])
def test_a_noised_update_is_never_called_exact(bias: bool, noise: float) -> None:
    model, images, observation = tiny(bias=bias)
    torch.manual_seed(0)
    norm = math.sqrt(sum(float(value.square().sum()) for value in observation.update.values()))
    scale = noise * norm / math.sqrt(sum(value.numel() for value in observation.update.values()))
    noised = changed(observation, lambda name, value: value + scale * torch.randn_like(value))
    result = outcome(model, noised)
    if isinstance(result, NotApplicable):
        assert "every mask" in str(result) or "belong together" in str(result)
        assert not bias or noise > 1
    else:
        assert not certain(result)
        assert noise > 0.01 or psnr(result.images, images, 0.5) >= 20


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("keep", [0.01, 0.5])
def test_a_pruned_update_is_never_called_exact(bias: bool, keep: float) -> None:
    model, _, observation = tiny(bias=bias)
    everything = torch.cat([value.abs().flatten() for value in observation.update.values()])
    least = everything.sort(descending=True).values[int(keep * len(everything) * 0.5)]
    pruned = changed(observation, lambda name, value: value * (value.abs() >= least))
    result = outcome(model, pruned)
    if isinstance(result, NotApplicable):
        assert any(why in str(result) for why in ("every mask", "zero", "belong together", "no length"))
    else:
        assert not certain(result)


@pytest.mark.parametrize("bias", [False, True])
def test_dropout_of_the_pixels_stays_in_the_image(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), Dropout(0.3), nn.Linear(64, 32, bias=bias), nn.GELU(), Dropout(0.5), nn.Linear(32, 4, bias=bias)
    )
    images = torch.rand(1, 1, 8, 8) * 2 - 1
    observation = observe(model, images, torch.tensor([1]), mean=(0.5,), std=(0.5,), classes=4)
    result = attack(model, observation)
    kept = observation.noise["1"].view(1, 1, 8, 8)  # type: ignore[index]
    assert psnr(result.images, images * kept, 0.5) >= 100
    assert not certain(result)
    assert result.details["input_dropped"]
    assert torch.equal(result.noise["1"].view_as(kept), kept)  # type: ignore[index]


def test_a_missing_bias_in_the_update_is_done_without() -> None:
    model, images, observation = tiny(bias=True)
    update = {name: value for name, value in observation.update.items() if name != "1.bias"}
    result = attack(model, dataclasses.replace(observation, update=update))
    assert result.details["route"] == "length"
    assert psnr(result.images, images, 0.5) >= 100


def test_it_declines_with_a_reason() -> None:
    model, _, observation = tiny(bias=False)
    zero_head = changed(observation, lambda name, value: value if name.startswith("10") else 0 * value)
    broken = changed(observation, lambda name, value: value * math.nan)
    lacking = {name: value for name, value in observation.update.items() if name != "1.weight"}
    wrong = {**observation.update, "1.weight": torch.rand(3, 3)}
    for bad, reason in (
        (zero_head, "lacks 1.weight: zero"),
        (broken, "not finite"),
        (dataclasses.replace(observation, update=lacking), "lacks 1.weight"),
        (dataclasses.replace(observation, update=wrong), "shape"),
        (dataclasses.replace(observation, labels=torch.tensor([1, 2])), "2 labels"),
        (dataclasses.replace(observation, kind="delta", local=None), "local_training"),
    ):
        with pytest.raises(NotApplicable, match=reason):
            attack(model, bad)
    model = build({"name": "lenet", "dropout": 0.5}, input_shape=(1, 8, 8), classes=4, seed=0)
    with pytest.raises(NotApplicable, match="Conv2d"):
        attack(model, observe(model, torch.rand(1, 1, 8, 8), torch.tensor([1]), classes=4))


@pytest.mark.parametrize("bias", [False, True])
def test_an_image_beyond_the_range_of_pixels_is_not_certain(bias: bool) -> None:
    model, images, _ = tiny(bias=bias)
    for scale, sure in ((1.0, True), (1.05, False)):
        observation = observe(model, scale * images, torch.tensor([0]), mean=(0.5,), std=(0.5,), classes=4)
        result = attack(model, observation)
        assert psnr(result.images, scale * images, 0.5) >= 100
        assert certain(result) == sure


@pytest.mark.parametrize("bias", [False, True])
def test_an_image_is_certain_to_a_relative_error_of_a_thousandth(bias: bool) -> None:
    """Noise that leaves the zeros of dropout, so that the masks are read."""
    model, images, observation = tiny(bias=bias)
    for noise, sure in ((1e-5, True), (3e-3, False)):
        torch.manual_seed(0)
        result = attack(model, changed(observation, lambda _, v, n=noise: v * (1 + n * torch.randn_like(v))))
        assert psnr(result.images, images, 0.5) >= 20
        assert certain(result) == sure


def test_a_client_in_evaluation_mode_draws_nothing() -> None:
    torch.manual_seed(0)
    model = paper_mlp(dropout=0.5, inputs=64, width=64, classes=4)
    images = torch.rand(1, 1, 8, 8)
    observation = observe(model, images, torch.tensor([1]), classes=4, train=False)
    result = attack(model, observation, client_mode="eval")
    assert psnr(result.images, images, 1) >= 100
    assert certain(result)


@settings(deadline=None, max_examples=15)
@given(
    channels=st.integers(1, 3),
    side=st.integers(2, 6),
    width=st.integers(8, 40),
    classes=st.integers(3, 6),
    rate=st.sampled_from([0.0, 0.1, 0.5]),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_exact_or_not_certain_whatever_the_shape(
    channels: int, side: int, width: int, classes: int, rate: float, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    model = paper_mlp(dropout=rate, inputs=channels * side**2, width=width, classes=classes, bias=bias)
    images, labels = torch.rand(1, channels, side, side), torch.tensor([seed % classes])
    fields = {"mean": (0.0,) * channels, "std": (1.0,) * channels, "classes": classes}
    observation = observe(model, images, labels, seed=seed, **fields)  # type: ignore[arg-type]
    if not any(value.any() for name, value in observation.update.items() if name == "1.weight"):
        with pytest.raises(NotApplicable):
            attack(model, observation)
        return
    result = attack(model, observation)
    if certain(result):
        assert psnr(result.images, images, 1) >= 50
    else:  # only where the update hardly depends on the length
        assert result.details["relative_error"] > 1e-3

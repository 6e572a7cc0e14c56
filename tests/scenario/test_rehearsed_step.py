"""A client's first step and an attack's first gradient are tried at `check`; the fault names the module."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fedsim.errors import BadInput, Caution
from fedsim.scenario import load

MODELS = """
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        c, h, w = input_shape
        self.inp, self.out, self.spare = nn.Linear(c * h * w, 8), nn.Linear(8, classes), nn.Linear(3, 3)
        self.register_buffer("count", torch.tensor(0))

    def middle(self, x):
        return x

    def forward(self, x):
        return self.out(self.middle(torch.sigmoid(self.inp(x.flatten(1)))))


class Tuple(Net):
    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class Counting(Net):
    def middle(self, x):
        self.count += 1
        return x


class Branching(Net):
    def middle(self, x):
        return x if x.mean() > 0 else -x


class Checkpointed(Net):
    def middle(self, x):
        return checkpoint(torch.sigmoid, x, use_reentrant=False)


class CheckpointedLayer(Net):
    def middle(self, x):
        return checkpoint(nn.Sequential(self.spare_square, nn.Sigmoid()), x, use_reentrant=False)

    def __init__(self, input_shape, classes):
        super().__init__(input_shape, classes)
        self.spare_square = nn.Linear(8, 8)


class Inplace(Net):
    def middle(self, x):
        return x.mul_(2)


class NoNumber(Net):
    def middle(self, x):
        return (x - 2).log()


class SomeNumbers(Net):
    def middle(self, x):
        SomeNumbers.called = getattr(SomeNumbers, "called", 0) + 1
        return x * float("nan") if SomeNumbers.called == 1 else x


def plain(input_shape, classes):
    return Net(input_shape, classes)


def normed(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.Sequential(nn.BatchNorm1d(8)), nn.Linear(8, classes))


def linear(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.Linear(8, classes))


def nothing(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(classes))


def frozen(input_shape, classes):
    return Net(input_shape, classes).requires_grad_(False)


def recurrent(input_shape, classes):
    class Last(nn.Module):
        def forward(self, pair):
            return pair[0][:, -1]

    return nn.Sequential(nn.Flatten(1, 2), nn.LSTM(28, 4, batch_first=True), Last(), nn.Linear(4, classes))
"""

LAYERS = (
    ("inp", "weight", (8, 784)),
    ("inp", "bias", (8,)),
    ("out", "weight", (10, 8)),
    ("out", "bias", (10,)),
    ("spare", "weight", (3, 3)),
    ("spare", "bias", (3,)),
)


@pytest.fixture
def write(tmp_path: Path, monkeypatch):
    (tmp_path / "own_steps.py").write_text(textwrap.dedent(MODELS))
    monkeypatch.chdir(tmp_path)

    def scenario(
        factory: str, *, local: str = "{}", defense: str = "none", attack: str = "inverting_gradients", more: str = ""
    ) -> Path:
        path = tmp_path / "scenario.yaml"
        path.write_text(
            textwrap.dedent(f"""
            name: rehearsed
            data: {{name: mnist}}
            model: {{factory: "own_steps:{factory}"}}
            federation: {{clients: 2, local: {local}}}
            attacks: [{attack}]
            defenses: [{defense}]
            metrics: [mse]
            """).lstrip()
            + more
        )
        return path

    return scenario


def cautions(path: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        load(path)
    return [str(one.message) for one in seen if issubclass(one.category, Caution)]


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("normed", r"train mode with 1 image: module '2\.0' \(BatchNorm1d\): Expected more than 1 value per channel"),
        ("Tuple", r"train mode with 1 image: returned a tuple, not logits of shape \(1, 10\)"),
        ("nothing", "has no parameter that is trained"),
        ("frozen", "has no parameter that is trained"),
        ("Inplace", "train mode with 1 image: one of the variables needed for gradient computation"),
    ],
)
def test_a_client_that_cannot_train_is_refused(write, factory: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason) as refused:
        load(write(factory))
    assert "scenario.yaml:3:" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("local", ["{batch_size: 2}", "{mode: eval}"])
def test_the_real_batch_size_and_mode_are_tried(write, local: str) -> None:
    assert cautions(write("normed", local=local)) == []


def test_the_training_for_utility_is_tried_too(write) -> None:
    utility = "utility: {rounds: 1, local: {batch_size: 1}}\n"
    with pytest.raises(BadInput, match=r"train mode with 1 image: module '2\.0' \(BatchNorm1d\)"):
        load(write("normed", local="{batch_size: 2}", more=utility))


@pytest.mark.filterwarnings("ignore::fedsim.errors.Caution")
def test_a_defense_that_cannot_serve_the_model_is_blamed(write) -> None:
    path = write("normed", defense="none, dp_sgd", local="{batch_size: 2}")
    with pytest.raises(BadInput, match=r"yaml:6:18: defenses\[1\]: dp_sgd: layer '2.0' \(BatchNorm1d\) mixes"):
        load(path)


@pytest.mark.parametrize("factory", ["plain", "Counting", "recurrent"])
@pytest.mark.parametrize("defense", ["none", "clip"])
def test_what_works_is_not_warned_of(write, factory: str, defense: str) -> None:
    assert cautions(write(factory, defense=defense)) == []


def test_a_defense_that_makes_several_images_of_one_is_tried(write) -> None:
    assert cautions(write("Net", defense="oasis, [oasis, {name: soteria, layer: out}]")) == []


def test_a_pattern_that_fits_no_parameter_is_refused(write) -> None:
    path = write("plain", local="{batch_size: 2, trained: [nowhere.*]}")
    with pytest.raises(BadInput, match=r"local.trained: 'nowhere.\*' fits no parameter of the model; it has"):
        load(path)
    load(write("plain", local="{batch_size: 2, trained: ['*.weight']}"))


def test_unused_parameters_are_no_fault_of_dp_sgd(write) -> None:
    assert cautions(write("plain", defense="dp_sgd", local="{batch_size: 2}")) == []


@pytest.mark.parametrize(
    ("factory", "reason"), [("Branching", "its forward pass looks at values"), ("Checkpointed", "checkpointing")]
)
def test_what_only_an_attack_cannot_do_is_warned_of(write, factory: str, reason: str) -> None:
    [caution] = cautions(write(factory, attack="cascade, inverting_gradients"))
    assert caution.startswith(f"model factory 'own_steps:{factory}': attacks that optimise will not apply: ")
    assert reason in caution
    assert cautions(write(factory, attack="first_linear")) == []  # nothing in it differentiates twice


def test_changed_code_is_tried_again(write, tmp_path: Path) -> None:
    path = write("Tuple")
    with pytest.raises(BadInput, match="returned a tuple"):
        load(path)
    code = (tmp_path / "own_steps.py").read_text()
    (tmp_path / "own_steps.py").write_text(code.replace("if self.training else logits", "if False else logits"))
    assert cautions(path) == []


def test_a_model_whose_loss_is_no_number_is_refused(write) -> None:
    with pytest.raises(BadInput, match=r"yaml:3:18: .*NoNumber': a client's gradient is not finite: '.*' holds NaN"):
        load(write("NoNumber"))


def test_a_batch_that_gives_no_number_is_a_fault_of_that_batch(write) -> None:
    assert cautions(write("SomeNumbers", attack="first_linear")) == []


def test_a_defense_whose_update_is_not_finite_is_refused(write) -> None:
    path = write("plain", defense="none, {name: gaussian_noise, std: 1.0e+39}")
    with pytest.raises(BadInput, match=r"defenses\[1\]: gaussian_noise: what a client sends is not finite: '\S+' h"):
        load(path)


@pytest.mark.filterwarnings("ignore::fedsim.errors.Caution")
def test_weights_from_elsewhere_may_be_what_makes_it_finite(write, tmp_path: Path) -> None:
    """What a fresh model computes says nothing of a trained one."""
    path = write("NoNumber")
    state = {f"{layer}.{name}": torch.ones(shape) for layer, name, shape in LAYERS} | {"count": torch.tensor(0)}
    trained = tmp_path / "trained.safetensors"
    save_file(state, trained)
    path.write_text(path.read_text().replace('NoNumber"}', f'NoNumber", checkpoint: {trained}}}'))
    load(path)


@pytest.mark.parametrize(
    ("local", "refused"),
    [
        ("{batch_size: 2, share: weights, steps: 3, learning_rate: 1.0e+38}", True),
        ("{batch_size: 2, share: weights, epochs: 3, learning_rate: 1.0e+38}", True),
        ("{batch_size: 2, share: weights, steps: 1, learning_rate: 1.0e+5}", False),
        ("{batch_size: 2, share: weights, steps: 3, learning_rate: 100.0}", False),
        ("{batch_size: 2, learning_rate: 1.0e+38}", False),  # gradients are sent, whatever the rate
    ],
)
def test_a_learning_rate_that_explodes_is_refused(write, local: str, refused: bool) -> None:
    path = write("linear", local=local)
    if not refused:
        load(path)
        return
    with pytest.raises(BadInput, match=r"local\.learning_rate: 1e\+38 is too much: after 3 steps '\S+' of a client's"):
        load(path)


def test_a_learning_rate_that_explodes_without_an_attack_is_refused(write) -> None:
    utility = "utility: {rounds: 1, local: {batch_size: 2, steps: 3, learning_rate: 1.0e+38}}\n"
    with pytest.raises(BadInput, match=r"utility\.local\.learning_rate: 1e\+38 is too much"):
        load(write("linear", more=utility))

"""The simulated client computes what a real PyTorch training loop computes."""

import pytest
import torch
from attack_victims import observe, paper_mlp
from torch import nn

from attacks import LocalTraining, NotApplicable, Observation
from attacks.twin import attacker_copy, simulate
from attacks.updates import observed_gradient, trained_part
from defenses.client.optimizers.sgd import SGD
from defenses.stochastic import Dropout

torch.manual_seed(0)
IMAGES = torch.randn(6, 1, 4, 4, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3, 4, 4])


def small(dropout: float = 0.5) -> nn.Module:
    torch.manual_seed(1)
    return paper_mlp(dropout=dropout, inputs=16, width=8, classes=5, bias=True).double()


def convolutional() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), Dropout(0.3), nn.Linear(16, 5)
    ).double()


def assert_same(found: dict[str, torch.Tensor], expected: Observation) -> None:
    assert found.keys() == expected.update.keys()
    for name, value in expected.update.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [small, convolutional])
def test_the_gradient_of_a_training_client(make) -> None:
    observation = observe(make(), IMAGES, LABELS)
    twin = attacker_copy(make(), observation.state)
    assert observation.noise  # the client did draw
    assert_same(simulate(twin, observation.state, IMAGES, LABELS, observation.noise), observation)


@pytest.mark.parametrize("make", [small, convolutional])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_weights_after_several_steps(make, steps: int) -> None:
    local = LocalTraining(steps=steps, learning_rate=0.2, optimizer=SGD(momentum=0.9, weight_decay=0.01))
    observation = observe(make(), IMAGES, LABELS, local=local)
    twin = attacker_copy(make(), observation.state)
    found = simulate(twin, observation.state, IMAGES, LABELS, observation.noise, local=local, kind="delta")
    assert_same(found, observation)


def test_an_evaluating_client_uses_the_running_statistics() -> None:
    model = convolutional()
    model.train()(IMAGES)  # moves the running statistics
    observation = observe(model, IMAGES, LABELS, train=False)
    twin = attacker_copy(convolutional(), observation.state, client_mode="eval")
    assert_same(simulate(twin, observation.state, IMAGES, LABELS), observation)


def test_a_soft_label_of_one_class_is_that_class() -> None:
    observation = observe(small(0.0), IMAGES, LABELS)
    twin = attacker_copy(small(0.0), observation.state)
    soft = nn.functional.one_hot(LABELS, 5).double()
    assert_same(simulate(twin, observation.state, IMAGES, soft), observation)


def test_a_single_steps_delta_reveals_the_gradient() -> None:
    gradient = observe(small(), IMAGES, LABELS)
    local = LocalTraining(learning_rate=0.3, optimizer=SGD(momentum=0.9, weight_decay=0.05))
    found = observed_gradient(observe(small(), IMAGES, LABELS, local=local))
    assert found is not None
    for name, value in gradient.update.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def test_a_wrong_noise_name_is_refused() -> None:
    observation = observe(small(), IMAGES, LABELS)
    twin = attacker_copy(small(), observation.state)
    with pytest.raises(ValueError, match="the model has no nowhere"):
        simulate(twin, observation.state, IMAGES, LABELS, {"nowhere": torch.ones(6, 8)})


def test_a_state_that_does_not_fit_is_refused() -> None:
    state = small().state_dict()
    with pytest.raises(ValueError, match=r"state lacks 1\.weight"):
        attacker_copy(small(), {k: v for k, v in state.items() if k != "1.weight"})
    with pytest.raises(ValueError, match=r"1\.weight has shape \(8, 3\), the model's \(8, 16\)"):
        attacker_copy(small(), {**state, "1.weight": torch.zeros(8, 3)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"1.weight": torch.full((8, 16), torch.nan)}, "not finite"),
        ({"1.weight": torch.zeros(8, 15)}, "has shape"),
        ({"other": torch.zeros(1)}, "no parameter of the model"),
    ],
)
def test_unusable_updates_are_declined(change: dict[str, torch.Tensor], reason: str) -> None:
    observation = observe(small(), IMAGES, LABELS)
    object.__setattr__(observation, "update", {**observation.update, **change})
    with pytest.raises(NotApplicable, match=reason):
        trained_part(observation, small())


def test_a_zero_update_is_declined() -> None:
    observation = observe(small(), IMAGES, LABELS)
    object.__setattr__(observation, "update", {n: torch.zeros_like(v) for n, v in observation.update.items()})
    with pytest.raises(NotApplicable, match="zero"):
        trained_part(observation, small())


def test_the_callers_model_is_left_alone() -> None:
    model = convolutional()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attacker_copy(model, {name: torch.zeros_like(value) for name, value in before.items()})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())

"""Learning rates that change and parameters that are trained apart: as torch has them, and read back by an attacker."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from attacks import NotApplicable, Observation, ThreatModel
from attacks.closed_form.base import Puzzle
from attacks.updates import mean_gradient, observed_gradient
from defenses.client import schedules
from defenses.client.groups import Group
from defenses.client.optimizers.adam import Adam
from defenses.client.optimizers.sgd import SGD
from defenses.client.round import ClientRound, play
from defenses.client.training import LocalTraining

STEPS = 7


@pytest.mark.parametrize(
    ("name", "keys", "theirs", "their_keys"),
    [
        ("step", {"every": 3, "gamma": 0.5}, lr_scheduler.StepLR, {"step_size": 3, "gamma": 0.5}),
        ("cosine", {"steps": 5, "least": 0.1}, lr_scheduler.CosineAnnealingLR, {"T_max": 5, "eta_min": 0.02}),
        (
            "linear",
            {"steps": 4, "start": 0.25},
            lr_scheduler.LinearLR,
            {"total_iters": 4, "start_factor": 0.25},
        ),
    ],
)
def test_schedules_are_those_of_torch(name, keys, theirs, their_keys) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    reference = theirs(optimizer, **their_keys)
    schedule = schedules.create(name, **keys)
    for step in range(STEPS):
        assert 0.2 * schedule.factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize(
    ("name", "keys", "says"),
    [
        ("step", {"every": 0}, "step: every = 0 is not a number of at least 1"),
        ("step", {"gamma": -0.5}, "step: gamma = -0.5 is not"),
        ("cosine", {"steps": 3, "least": float("nan")}, "cosine: least = nan is not"),
        ("linear", {"steps": 3, "start": -1.0}, "linear: start = -1.0 is not"),
        ("listed", {"factors": ()}, r"listed: factors = \[\] is not a list"),
        ("listed", {"factors": (1.0, -1.0)}, r"listed: factors = \[1.0, -1.0\] is not a list"),
    ],
)
def test_bad_values_are_refused_by_name(name, keys, says) -> None:
    with pytest.raises(ValueError, match=says):
        schedules.create(name, **keys)


def test_a_group_needs_parameters_and_a_scale() -> None:
    with pytest.raises(ValueError, match="no patterns"):
        Group(parameters=())
    with pytest.raises(ValueError, match="scale = -1 is not"):
        Group(parameters=("*",), scale=-1)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batches() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 1, 4, 4, dtype=torch.float64, generator=generator), torch.arange(6) % 3


APART = LocalTraining(
    steps=3,
    learning_rate=0.2,
    schedule=schedules.create("step", gamma=0.5),
    optimizer=SGD(momentum=0.9, weight_decay=0.05),
    groups=(
        Group(parameters=("*.bias",), optimizer=SGD(momentum=0.9), scale=2.0),
        Group(parameters=("3.*",), scale=0.25, schedule=schedules.create("listed", factors=(0.0, 1.0))),
    ),
)


def sent(local: LocalTraining) -> tuple[nn.Module, Observation]:
    net, (images, labels) = model(), batches()
    images, labels = images[: local.steps * 2], labels[: local.steps * 2]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    round = ClientRound(model=net, local=local, share="delta")
    played = play(round, state, images, labels, lambda site, step: torch.Generator().manual_seed(7))
    return model(), Observation(
        state=state,
        update=played.update,
        kind="delta",
        precision="float64",
        input_shape=(1, 4, 4),
        classes=3,
        mean=(0.0,),
        std=(1.0,),
        batch_size=2,
        local=local,
    )


def test_groups_are_those_of_torch() -> None:
    net, (images, labels) = model(), batches()
    start = {name: value.detach().clone() for name, value in net.named_parameters()}
    named = dict(net.named_parameters())
    optimizer = torch.optim.SGD(
        [
            {"params": [named["1.weight"]]},
            {"params": [named["1.bias"], named["3.bias"]], "lr": 0.4, "weight_decay": 0.0},
            {"params": [named["3.weight"]], "lr": 0.05},
        ],
        lr=0.2,
        momentum=0.9,
        weight_decay=0.05,
    )
    scheduler = lr_scheduler.LambdaLR(optimizer, [lambda n: 0.5**n, lambda n: 0.5**n, lambda n: float(n > 0)])
    for step in range(3):
        optimizer.zero_grad()
        places = slice(2 * step, 2 * step + 2)
        nn.functional.cross_entropy(net(images[places]), labels[places]).backward()
        optimizer.step()
        scheduler.step()
    for name, change in sent(APART)[1].update.items():
        torch.testing.assert_close(change, (named[name] - start[name]).detach(), rtol=1e-9, atol=1e-12)


def test_what_there_is_to_say_survives_json_and_says_nothing_where_there_is_nothing() -> None:
    again = LocalTraining.from_dict(json.loads(json.dumps(APART.to_dict())))
    assert again == APART
    assert LocalTraining.from_dict(json.loads(json.dumps(LocalTraining().to_dict()))) == LocalTraining()


ONE_STEP = replace(APART, steps=1, groups=(APART.groups[0], replace(APART.groups[1], schedule=None)))


def test_one_step_reveals_the_gradient_of_each_group() -> None:
    net, observation = sent(ONE_STEP)
    images, labels = batches()
    nn.functional.cross_entropy(net(images[:2]), labels[:2]).backward()
    puzzle = Puzzle.of(observation, ThreatModel(), net)
    found = observed_gradient(observation)
    assert found is not None
    for name, value in net.named_parameters():
        torch.testing.assert_close(found[name], value.grad, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(puzzle.gradient(name), value.grad, rtol=1e-9, atol=1e-12)


def test_noise_on_the_update_is_larger_on_the_gradient_of_what_moves_less() -> None:
    """An update carries noise of one size; read as a gradient, it is divided by the rate of its parameter."""
    net, observation = sent(replace(ONE_STEP, schedule=None))
    puzzle = Puzzle.of(replace(observation, defense=({"name": "gaussian_noise", "std": 0.1},)), ThreatModel(), net)
    assert puzzle.spread is not None
    found = {name: float(value) for name, value in puzzle.spread.added.items()}
    assert found == pytest.approx({"1.weight": 0.5, "1.bias": 0.25, "3.weight": 2.0, "3.bias": 0.25})


def test_a_step_at_a_rate_of_zero_reveals_nothing() -> None:
    local = replace(ONE_STEP, groups=(), schedule=schedules.create("listed", factors=(0.0,)))
    change = {"a": torch.ones(2)}
    assert local.first_gradient(change, change) is None
    assert local.first_estimate(change, change, change) is None


def test_the_mean_of_the_gradients_is_taken_at_the_rates_there_were() -> None:
    """Of a loss that does not change, however the rates do, the mean gradient is the gradient."""
    local = replace(APART, optimizer=SGD(momentum=0.5), groups=(Group(parameters=("b",), scale=3.0),))
    unit = {name: torch.ones(2, dtype=torch.float64) for name in "ab"}
    moved, state = {name: torch.zeros(2, dtype=torch.float64) for name in "ab"}, local.init(unit)
    for step in range(3):
        change, state = local.change({"a": 2 * unit["a"], "b": 5 * unit["b"]}, state, moved, local.rates(moved, step))
        moved = {name: value + change[name] for name, value in moved.items()}
    _, observation = sent(local)
    found = mean_gradient(replace(observation, update=moved, state=dict.fromkeys("ab", unit["a"])))
    torch.testing.assert_close(found["a"], 2 * unit["a"])
    torch.testing.assert_close(found["b"], 5 * unit["b"])


def test_one_adam_among_the_groups_is_named() -> None:
    local = replace(APART, groups=(Group(parameters=("3.*",), optimizer=Adam()),))
    net, observation = sent(local)
    with pytest.raises(NotApplicable, match="adam does not add up gradients"):
        mean_gradient(observation)
    with pytest.raises(NotApplicable, match="adam does not add up gradients"):
        Puzzle.of(observation, ThreatModel(), net)

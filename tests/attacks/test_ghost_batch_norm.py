"""Ghost matching with batch norm: every problem is normalised by the statistics of its own batch."""

from collections.abc import Callable

import pytest
import torch
from attack_victims import observe
from evaluator_problems import Problem, assert_ghost_equals_general, assert_problems_do_not_meet, problem, unknowns
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import attacks
from attacks import ThreatModel, program
from attacks.evaluators import choose
from attacks.evaluators.general import General
from attacks.evaluators.ghost import Ghost
from attacks.evaluators.rules import Unfit, rule
from attacks.objectives import Cosine, Euclidean
from attacks.optimisers import State
from attacks.step import Step
from defenses.client.round import ClientRound
from defenses.stochastic import Dropout
from fedsim.models.resnet18 import ResNet18


def away_from_the_start(model: nn.Module) -> nn.Module:
    """In double, with weights, biases and running statistics unlike those that a new batch norm has."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            values = [module.weight, module.bias, module.running_mean]
            for value in (value for value in values if value is not None):
                nn.init.normal_(value, 0.5)
            if module.running_var is not None:
                nn.init.uniform_(module.running_var, 0.5, 2)
    return model.double()


def convolutional(width: int, **options: bool) -> nn.Module:
    first = [nn.Conv2d(2, width, 3, padding=1, stride=2), nn.BatchNorm2d(width, **options), nn.ReLU(inplace=True)]
    second = [Dropout(0.3), nn.Conv2d(width, 5, 1, bias=False), nn.BatchNorm2d(5, **options), nn.Tanh()]
    return away_from_the_start(nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(20, 3)))


def mlp(width: int, **options: bool) -> nn.Module:
    hidden = [nn.Flatten(), nn.Linear(32, width), nn.BatchNorm1d(width, **options), nn.GELU(), Dropout(0.5)]
    return away_from_the_start(nn.Sequential(*hidden, nn.Linear(width, 3)))


def sequences(width: int, **options: bool) -> nn.Module:
    """BatchNorm1d over (B, C, L)."""
    layers = [nn.Flatten(2), nn.Linear(16, width), nn.BatchNorm1d(2, **options), nn.Tanh(), nn.Flatten()]
    return away_from_the_start(nn.Sequential(*layers, nn.Linear(2 * width, 3)))


def resnet(problems: int, batch: int) -> Problem:
    model = away_from_the_start(ResNet18((1, 16, 16), 3, norm="batch", width=2))
    model.dropout.p = 0.5
    return problem(model, problems, batch, 0, shape=(1, 16, 16))


@settings(max_examples=30, deadline=None)
@given(
    make=st.sampled_from([convolutional, mlp, sequences]),
    width=st.integers(2, 9),
    problems=st.integers(1, 3),
    batch=st.integers(1, 3),
    options=st.sampled_from([{}, {"affine": False}, {"bias": False}, {"track_running_stats": False}]),
    objective=st.sampled_from([Cosine(), Euclidean()]),
    client_mode=st.sampled_from(["train", "eval"]),
    seed=st.integers(0, 1000),
)
def test_ghost_equals_general(make, width, problems, batch, options, objective, client_mode, seed) -> None:
    batch = max(batch, 2) if make is mlp else batch
    torch.manual_seed(seed)
    made = problem(make(width, **options), problems, batch, seed, client_mode=client_mode)
    assert_ghost_equals_general(made, objective)


def mixed(width: int) -> nn.Module:
    """Parameterless batch norm, where nothing but the forward pass can go wrong, beside one with parameters."""
    layers = [nn.Conv2d(2, width, 3), nn.BatchNorm2d(width, affine=False), nn.Tanh(), nn.Conv2d(width, 4, 2)]
    return away_from_the_start(nn.Sequential(*layers, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3)))


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("make", [convolutional, sequences])
def test_all_three_batch_sizes(make, batch: int) -> None:
    torch.manual_seed(0)
    assert_ghost_equals_general(problem(make(5), 3, batch, 0), Cosine())


def test_the_same_as_plain_autograd_on_each_client() -> None:
    """The evaluators share code and habits; a loop over clients, with torch's own batch norm, does not."""
    torch.manual_seed(0)
    client = mixed(4)
    model, observed, guess = problem(client, 3, 2, 0)
    loss, gradients = Ghost(ClientRound(model=model), Cosine(), observed, guess)(guess, ["images"])
    client.train()
    for number in range(3):
        images = guess["images"][number].clone().requires_grad_()
        entropy = nn.functional.cross_entropy(client(images), guess["labels"][number])
        simulated = torch.autograd.grad(entropy, list(client.parameters()), create_graph=True)
        ours = torch.cat([value.flatten() for value in simulated])
        theirs = torch.cat([observed[name][number].flatten() for name, _ in client.named_parameters()])
        true = 1 - nn.functional.cosine_similarity(ours, theirs, dim=0)
        torch.testing.assert_close(loss[number], true, rtol=1e-9, atol=1e-9)
        [slope] = torch.autograd.grad(true, [images])
        torch.testing.assert_close(gradients["images"][number], slope, rtol=1e-9, atol=1e-9 * float(slope.abs().max()))


@pytest.mark.parametrize("make", [convolutional, mlp, sequences, mixed])
def test_problems_do_not_meet(make) -> None:
    torch.manual_seed(0)
    assert_problems_do_not_meet(problem(make(4), 3, 2, 0))


def test_parameters_that_are_not_observed_change_nothing_in_the_forward_pass() -> None:
    torch.manual_seed(0)
    model, observed, guess = problem(convolutional(4), 3, 2, 0)
    without = {name: value for name, value in observed.items() if not name.startswith("1.")}
    assert without.keys() < observed.keys()
    assert_ghost_equals_general((model, without, guess), Cosine())


def test_resnet_with_masks_unknown() -> None:
    torch.manual_seed(0)
    made = resnet(2, 2)
    assert set(unknowns(made[2])) == {"images", "noise.dropout"}
    assert_ghost_equals_general(made, Cosine())


def test_resnet_uses_ghost_matching() -> None:
    torch.manual_seed(0)
    model, observed, guess = resnet(3, 2)
    assert isinstance(choose(ClientRound(model=model), Cosine(), observed, guess, unknowns(guess)), Ghost)


@pytest.mark.parametrize("make", [convolutional, mlp, sequences, mixed])
def test_ghost_matching_is_used(make) -> None:
    model, observed, guess = problem(make(4), 3, 2, 0)
    assert isinstance(choose(ClientRound(model=model), Cosine(), observed, guess, ["images"]), Ghost)


def test_a_batch_norm_called_twice_is_not_ghost_matchings() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(2), nn.Linear(32, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.norm(self.norm(images).sin()).flatten(1))

    model, observed, guess = problem(away_from_the_start(Twice()), 3, 2, 0)
    with pytest.raises(Unfit, match="norm is called 2 times"):
        Ghost(ClientRound(model=model), Cosine(), observed, guess)
    assert isinstance(choose(ClientRound(model=model), Cosine(), observed, guess, ["images"]), General)


def test_a_single_value_has_no_variance() -> None:
    """A client could not have trained so: torch refuses, though not where several problems stand side by side."""
    model, observed, guess = problem(mlp(4), 3, 2, 0)
    with pytest.raises(Unfit, match="single value"):
        Ghost(ClientRound(model=model), Cosine(), observed, {name: value[:, :1] for name, value in guess.items()})


@pytest.mark.parametrize("layer_type", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_a_second_rule_is_refused(layer_type) -> None:
    with pytest.raises(ValueError, match=f"{layer_type.__name__} already has a rule"):
        rule(layer_type)(lambda layer, inputs, delta, problems: {})


@pytest.mark.parametrize("client_mode", ["train", "eval"])
def test_an_iteration_can_be_traced(client_mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The traced graph, run on other values than it was traced with, takes the steps that the engine takes."""
    torch.manual_seed(0)
    model = convolutional(4)
    observations = []
    for seed in range(2):
        images, labels = torch.rand(2, 2, 4, 4, dtype=torch.float64), torch.randint(3, (2,))
        observations.append(observe(model, images, labels, seed=seed, classes=3, train=client_mode == "train"))
    traced = []

    def trace(step: Step, *inputs: object) -> Callable[..., State]:
        traced.append(make_fx(step)(*inputs))
        return traced[-1]

    monkeypatch.setattr(program, "_compiled", trace)
    attack = attacks.create("dropout_inversion", iterations=5)
    threat = ThreatModel(client_mode=client_mode)
    expected = attack.run(observations, threat, model)
    attack.compile = "always"
    found = attack.run(observations, threat, model)
    assert len(traced) == 1
    for one, other in zip(expected, found):
        assert one.iterations == other.iterations
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-8)

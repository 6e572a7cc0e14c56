"""Dropout that a model calls as a function is a site like that of a layer: with layers the model computes the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

import attacks
from attacks.observation import Observation, ThreatModel
from defenses.client.round import ClientRound, play
from defenses.stochastic import Dropout, convert, set_stochastic, stochastic_layers
from defenses.stochastic.convert import Inexplicit
from defenses.stochastic.functional import FUNCTIONS, Unmade


class Called(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.rate = 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x.flatten(1), 0.25, self.training)
        return self.second(F.dropout(F.relu(self.first(x)), p=self.rate, training=self.training, inplace=True))


class Layered(Called):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Dropout(0.25), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.two(F.relu(self.first(self.one(x.flatten(1))))))


def pair() -> tuple[nn.Module, nn.Module]:
    called, layered = Called(), Layered()
    layered.load_state_dict(called.state_dict())
    example = torch.randn(2, 6)
    return convert(called, example), convert(layered, example)


SITES = {"functional_dropout_0": "one", "functional_dropout_1": "two"}


def test_calls_become_layers_of_their_rates() -> None:
    called, _ = pair()
    layers = stochastic_layers(called)
    rates = {path: layer.p for path, layer in layers.items()}
    assert rates == {"functional_dropout_0": 0.25, "functional_dropout_1": 0.5}
    assert list(called.state_dict()) == list(Called().state_dict())
    x = torch.randn(4, 6)
    assert torch.equal(called.eval()(x), Called.forward(called, x))
    set_stochastic(called.train(), False)
    assert torch.equal(called(x), called.eval()(x))


def test_a_mask_means_what_it_means_to_a_layer() -> None:
    called, layered = pair()
    x = torch.randn(5, 6)
    masks = {"functional_dropout_0": torch.rand(5, 6).round(), "functional_dropout_1": torch.rand(5, 8).round()}
    ours = functional_call(called, {f"{site}.noise": mask for site, mask in masks.items()}, (x,))
    theirs = functional_call(layered, {f"{SITES[site]}.noise": mask for site, mask in masks.items()}, (x,))
    assert torch.equal(ours, theirs)
    stacked = {f"{site}.noise": torch.stack([mask, 1 - mask]) for site, mask in masks.items()}
    both = vmap(lambda noise: functional_call(called, noise, (x,)))(stacked)
    assert torch.equal(both[0], ours)
    assert not torch.equal(both[1], ours)


def test_a_copy_has_layers_of_its_own_and_rates_can_be_set() -> None:
    called, _ = pair()
    twin = copy.deepcopy(called)
    twin.functional_dropout_0.p = twin.functional_dropout_1.p = 0.0
    x = torch.randn(4, 6)
    assert torch.equal(twin(x), twin.eval()(x))
    assert not torch.equal(called(x), called.eval()(x))
    assert convert(called, x) is called
    assert len(stochastic_layers(called)) == 2


@pytest.mark.parametrize("function", list(FUNCTIONS), ids=lambda function: function.__name__)
def test_all_functions_of_torch_are_taken(function) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x, 0.3, training=self.training)

    shape = (5, *[3] * DIMENSIONS.get(function, 3))
    model = convert(Model(), torch.randn(2, *shape))
    [layer] = stochastic_layers(model).values()
    assert isinstance(layer, Dropout)
    x = torch.randn(800, *shape, generator=torch.Generator().manual_seed(0)) + 3
    torch.manual_seed(0)
    ours, theirs = model(x), function(x, 0.3, training=True)
    assert abs(float(ours.mean() - theirs.mean())) < 0.12
    assert abs(float(ours.std() - theirs.std())) < 0.12


DIMENSIONS = {F.dropout1d: 1, F.dropout2d: 2}


def test_a_call_that_was_not_there_is_refused() -> None:
    called, _ = pair()
    called.rate = 0.4
    with pytest.raises(Unmade, match=r"Called calls dropout at the rate 0\.4 where it did not before"):
        called(torch.randn(2, 6))


def test_a_module_that_runs_twice_is_refused_by_name() -> None:
    inner = Called()
    inner.second = nn.Linear(8, 6)
    with pytest.raises(Inexplicit, match=r"functional_dropout_0' \(Dropout\) is called 2 times"):
        convert(nn.Sequential(inner, inner), torch.randn(2, 6))


def test_the_dropout_inversion_attack_finds_what_was_drawn() -> None:
    torch.manual_seed(0)
    model = convert(nn.Sequential(nn.Flatten(), Wide()), torch.randn(2, 1, 6, 6))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    image, label = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([2])
    played = play(ClientRound(model=model), state, image, label, lambda site, step: torch.Generator().manual_seed(5))
    assert set(played.drawn) == {"1.functional_dropout_0"}
    observation = Observation(
        state=state,
        update=played.update,
        input_shape=(1, 6, 6),
        classes=4,
        mean=(0.0,),
        std=(1.0,),
        batch_size=1,
        labels=label,
    )
    told = ThreatModel(labels="known", dropout_rate="known")
    errors = {}
    for name in ("dropout_inversion", "inverting_gradients"):
        found = attacks.create(name, iterations=1500)(observation, told, model, seed=0)
        errors[name] = float((found.images - image).square().mean())
    assert errors["dropout_inversion"] < 1e-3  # 30 dB
    assert errors["inverting_gradients"] > 10 * errors["dropout_inversion"]


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(36, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.dropout(F.gelu(self.first(x)), 0.5, self.training))

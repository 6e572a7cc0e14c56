"""Only what was trained is matched, however the update says what that was."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from attack_victims import observe
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.updates import trained_part
from defenses.client.optimizers.sgd import SGD

SHAPE = (1, 6, 6)


def network(*frozen: str, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 24), nn.Sigmoid(), nn.Linear(24, 24), nn.Sigmoid(), nn.Linear(24, 4)
    )
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return model


HEAD = ("5.weight", "5.bias")
BODY = ("1.weight", "1.bias", "3.weight", "3.bias")


def seen(model: nn.Module, **fields: object) -> tuple[Tensor, Observation]:
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    return image, observe(model, image, torch.tensor([2]), classes=4, **fields)  # type: ignore[arg-type]


def psnr(answer: Reconstruction, image: Tensor) -> float:
    return -10 * math.log10(float((answer.images.to(image) - image).square().mean()) + 1e-16)


def with_zeros(observation: Observation) -> Observation:
    update = {name: observation.update.get(name, torch.zeros_like(value)) for name, value in observation.state.items()}
    return replace(observation, update=update)


def ways(model: nn.Module) -> dict[str, tuple[Observation, nn.Module]]:
    """The same client, as its server may hold it: the model says what is frozen, or the update alone does."""
    _, observation = seen(model)
    told, untold = model, network()
    noised = {n: v + 0.1 if n in HEAD else v for n, v in with_zeros(observation).update.items()}
    grads: dict[str, Tensor] = {name: observation.update.get(name) for name, _ in model.named_parameters()}  # type: ignore[misc]
    return {
        "the model says so, zeros came": (with_zeros(observation), told),
        "the model says so, None came": (replace(observation, update=grads), told),
        "nothing came": (observation, untold),
        "zeros came": (with_zeros(observation), untold),
        "noise came on what does not move": (replace(observation, update=noised), told),
    }


@pytest.mark.parametrize("way", ways(network()))
def test_a_frozen_head_is_not_matched(way: str) -> None:
    model = network(*HEAD)
    image, _ = seen(model)
    observation, given = ways(model)[way]
    assert sorted(trained_part(observation, given).update) == sorted(BODY)
    answer = attacks.create("inverting_gradients", iterations=800, total_variation=0.0, tolerance=0.0, plateau=60)(
        observation, ThreatModel(), given
    )
    assert psnr(answer, image) > 45


def test_frozen_weights_of_a_delta_are_not_matched() -> None:
    model = network(*HEAD)
    image, observation = seen(model, local=LocalTraining(steps=1, learning_rate=0.5, optimizer=SGD(weight_decay=0.1)))
    assert not observation.update["5.weight"].any()  # SGD decays only what it trains
    answer = attacks.create("inverting_gradients", iterations=800, total_variation=0.0, tolerance=0.0, plateau=60)(
        observation, ThreatModel(), model
    )
    assert psnr(answer, image) > 40


def test_closed_forms_leave_frozen_parameters_out() -> None:
    """Without the bias the image's length is searched in the whole update: a frozen head must not be part of it."""
    model = network("1.bias", *HEAD)
    image, observation = seen(model)
    answer = attacks.create("first_linear")(with_zeros(observation), ThreatModel(), model)
    assert answer.details["route"] == "length"
    assert answer.details["certain"] == [True]
    assert psnr(answer, image) > 60


@pytest.mark.parametrize("name", ["first_linear", "sparse_dictionary", "cut"])
def test_what_needs_a_frozen_body_declines(name: str) -> None:
    model = network(*BODY)
    with pytest.raises(NotApplicable, match=r"the update lacks .*not trained"):
        attacks.create(name)(with_zeros(seen(model)[1]), ThreatModel(), model)


def test_labels_are_not_read_off_a_frozen_bias() -> None:
    model = network("5.bias")
    inferred = replace(with_zeros(seen(model)[1]), labels=None)
    answer = attacks.create("inverting_gradients", iterations=1)(inferred, ThreatModel(labels="inferred"), model)
    assert answer.labels is not None
    assert answer.labels.tolist() == [2]
    model = network(*HEAD)
    inferred = replace(with_zeros(seen(model)[1]), labels=None)
    with pytest.raises(NotApplicable, match="update lacks the last linear layer"):
        attacks.create("inverting_gradients", iterations=1)(inferred, ThreatModel(labels="inferred"), model)


def test_the_head_is_read_without_its_frozen_bias() -> None:
    """The bias is known and not zero; only its gradient is not there."""
    model = network("5.bias")
    with torch.no_grad():
        model.get_parameter("5.bias").copy_(torch.tensor([1.0, -1.0, 0.5, 0.0]))
    image, observation = seen(model)
    answer = attacks.create("cut", iterations=800, total_variation=0.0, tolerance=0.0, plateau=60)(
        with_zeros(observation), ThreatModel(), model
    )
    assert psnr(answer, image) > 40


def test_a_first_layer_alone_frozen_is_not_in_the_way_of_cut() -> None:
    model = network("1.weight", "1.bias")
    _, observation = seen(model)
    answer = attacks.create("cut", iterations=800, total_variation=0.0, tolerance=0.0, plateau=60)(
        with_zeros(observation), ThreatModel(), model
    )
    assert answer.loss < 1e-6


def test_tied_weights_are_matched_once() -> None:
    model = network()
    model[3].weight = nn.Parameter(torch.randn(24, 24) / 5)  # type: ignore[union-attr, index]
    model.append(nn.Identity())
    model.tied = nn.Linear(24, 24, bias=False)
    model.tied.weight = model[3].weight  # type: ignore[index]
    _, observation = seen(nn.Sequential(*list(model)[:6]))
    both = {**observation.update, "tied.weight": observation.update["3.weight"]}
    assert trained_part(replace(observation, update=both), model).update.keys() == observation.update.keys()
    renamed = {("tied.weight" if name == "3.weight" else name): value for name, value in observation.update.items()}
    assert trained_part(replace(observation, update=renamed), model).update.keys() == observation.update.keys()


def test_a_model_without_flags_says_nothing() -> None:
    model = network()
    _, observation = seen(model)
    assert trained_part(observation, network().requires_grad_(False)) is observation


def test_an_update_of_frozen_parameters_alone_is_declined() -> None:
    _, observation = seen(network())
    only = replace(observation, update={name: observation.update[name] for name in HEAD})
    with pytest.raises(NotApplicable, match="only parameters that are not trained"):
        trained_part(only, network(*HEAD))

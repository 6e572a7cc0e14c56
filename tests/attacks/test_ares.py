"""What a server does with the layers in front of a linear one, and which models it cannot do that to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks import Attack, ThreatModel, create
from attacks.malicious import Outset
from attacks.observation import Observation

PUBLIC = torch.rand(200, 1, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
OUTSET = Outset(input_shape=(1, 12, 12), classes=3, mean=(0.5,), std=(0.5,), public=PUBLIC)

MALICIOUS = ThreatModel(server="malicious", auxiliary_data="public")


def network(*between: nn.Module, linear: int = 1600) -> nn.Sequential:
    """A convolution, what is given, and two linear layers."""
    torch.manual_seed(0)
    last = [nn.Flatten(), nn.Linear(linear, 40), nn.ReLU(), nn.Linear(40, 3)]
    return nn.Sequential(nn.Conv2d(1, 16, 3), *between, nn.ReLU(), *last)


def test_units_are_active_for_their_share_and_the_maps_before_for_all() -> None:
    model = network()
    create("ares", share=0.1).change(model, OUTSET, seed=0)
    active = (model[:4](PUBLIC) > 0).double().mean(0)
    torch.testing.assert_close(active, torch.full((40,), 0.1, dtype=torch.float64), rtol=0, atol=2 / 200)
    assert (model[0](PUBLIC) > 0).double().mean() > 0.99
    assert model.training


def test_what_lies_behind_the_layer_stays_as_it_was() -> None:
    model, before = network(), network()
    create("ares").change(model, OUTSET, seed=0)
    assert torch.equal(model[5].weight, before[5].weight)
    assert torch.equal(model[5].bias, before[5].bias)
    assert not torch.equal(model[0].weight, before[0].weight)


def test_kernels_are_smooth() -> None:
    model = network()
    create("ares").change(model, OUTSET, seed=0)
    kernels = model[0].weight.detach()
    neighbours = (kernels[..., 1:] * kernels[..., :-1]).sum() / kernels.square().sum()
    assert neighbours > 0.4


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (network(nn.BatchNorm2d(16)), "batch norm 1 mixes the images"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(400, 3)), "no linear layer before the head"),
    ],
)
def test_a_model_that_does_not_admit_it_is_named(model: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=f"ares: {reason}"):
        create("ares").change(model, OUTSET, seed=0)


def attacked(images: torch.Tensor, labels: torch.Tensor, **options: int) -> tuple[Attack, nn.Sequential, Observation]:
    """The attack, the network as it changed that, and what a client with these images sends of it."""
    model = network()
    attack = create("ares", **options)
    attack.compile = "never"
    attack.change(model, OUTSET, seed=0)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    loss = nn.functional.cross_entropy(model(images), labels)
    update = dict(zip(state, torch.autograd.grad(loss, list(model.parameters()))))
    observation = Observation(
        state=state, update=update, input_shape=(1, 12, 12), classes=3, mean=(0.5,), std=(0.5,), public=PUBLIC,
        batch_size=len(images) if len(images) > 1 else None,
    )  # fmt: skip
    return attack, model, observation


def test_every_image_that_is_alone_in_a_unit_is_found_and_what_is_certain_is_right() -> None:
    images = PUBLIC[:12]
    attack, model, observation = attacked(images, torch.arange(12) % 3, iterations=300)
    answer = attack(observation, MALICIOUS, model)
    error = ((answer.images[:, None] - images[None]) / 2).square().mean((2, 3, 4)).amin(1)
    certain = torch.tensor(answer.details["certain"])
    assert certain.any()
    assert (error[certain] < 1e-3).all()
    alone = (model[:4](images) > 0).double()
    alone = alone[:, alone.sum(0) == 1].any(1)
    assert int((error < 1e-3).sum()) >= int(alone.sum()) - 1


def test_rows_of_one_image_differ_by_rounding_alone_and_are_one_answer() -> None:
    changed = network()
    create("ares").change(changed, OUTSET, seed=0)
    most = int((changed[:4](PUBLIC) > 0).sum(1).argmax())
    attack, model, observation = attacked(PUBLIC[[most]], torch.tensor([1]), iterations=20)
    answer = attack(observation, MALICIOUS, model)
    assert answer.details["rows"] > 3
    assert answer.details["certain"] == [True]

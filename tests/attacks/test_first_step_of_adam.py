"""The only step of Adam tells small entries of the gradient well and large ones hardly; the image comes back."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD, mnist, observe, psnr
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, ThreatModel
from attacks.closed_form.base import Puzzle
from defenses.client.optimizers import Optimizer
from defenses.client.optimizers.adam import Adam
from defenses.client.optimizers.adamw import AdamW
from fedsim.models import build


def victim(
    optimizer: Optimizer, *, bias: bool = True, dropout: float = 0.5, images: int = 1
) -> tuple[nn.Module, Tensor, Observation]:
    """A client that takes one step of torch's own optimizer on its float32 weights."""
    described = {"name": "mlp", "bias": bias, "dropout": dropout, "width": 256}
    model = build(described, input_shape=(1, 28, 28), classes=10, seed=0)
    pixels, labels = mnist(images)
    seen = observe(model, pixels, labels, mean=(MNIST_MEAN,), std=(MNIST_STD,))
    client = copy.deepcopy(model)
    for name, parameter in client.named_parameters():
        parameter.grad = seen.update[name].clone()
    kind = torch.optim.AdamW if optimizer.name == "adamw" else torch.optim.Adam
    spec = optimizer.spec()
    kind(client.parameters(), lr=1e-3, weight_decay=spec["weight_decay"], eps=spec["epsilon"]).step()
    update = {name: (value - seen.state[name]).detach() for name, value in client.named_parameters()}
    local = LocalTraining(learning_rate=1e-3, optimizer=optimizer)
    return model, pixels, replace(seen, update=update, kind="delta", local=local)


@pytest.mark.parametrize("optimizer", [AdamW(), Adam(), Adam(weight_decay=1e-4, epsilon=1e-7)], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_digit_comes_back_with_its_bias(optimizer: Optimizer, dropout: float) -> None:
    model, images, observation = victim(optimizer, dropout=dropout)
    result = attacks.create("first_linear")(observation, ThreatModel(), model)
    assert psnr(result.images, images, MNIST_STD) >= 65
    assert result.details["certain"] == [True]
    error = float((result.images - images).norm() / images.norm())
    assert error < 3 * result.details["relative_error"]


def test_a_digit_comes_back_without_a_bias() -> None:
    model, images, observation = victim(AdamW(), bias=False)
    result = attacks.create("first_linear")(observation, ThreatModel(), model)
    assert psnr(result.images, images, MNIST_STD) >= 65
    assert result.details["certain"] == [True]


def test_the_true_image_is_told_by_what_is_known_of_the_entries() -> None:
    model, images, observation = victim(AdamW())
    others, _ = mnist(3)
    puzzle = Puzzle.of(observation, ThreatModel(), model)
    left = attacks.create("first_linear").unexplained(puzzle, torch.cat([images, others[2:]]))
    assert left[0] < 1e-2
    assert left[1] > 0.1


@pytest.mark.parametrize("change", [lambda value: 0.5 * value, lambda value: value + 1e-6 * torch.randn_like(value)])
def test_a_step_that_was_changed_afterwards_is_not_believed(change) -> None:
    model, _, observation = victim(AdamW())
    torch.manual_seed(0)
    changed = {name: change(value) for name, value in observation.update.items()}
    result = attacks.create("first_linear")(replace(observation, update=changed), ThreatModel(), model)
    assert result.details["certain"] == [False]
    assert result.details["determined"] == [False]


def test_where_it_is_no_rank_one_closed_forms_decline() -> None:
    model, _, observation = victim(AdamW(), images=2)
    for name in ("first_linear", "sparse_dictionary"):
        with pytest.raises(NotApplicable):
            attacks.create(name)(observation, ThreatModel(), model)
    local = LocalTraining(learning_rate=1e-3, optimizer=AdamW(), steps=2)
    with pytest.raises(NotApplicable, match="adamw does not add up gradients"):
        attacks.create("first_linear")(replace(observation, local=local, batch_size=1), ThreatModel(), model)

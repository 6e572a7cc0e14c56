"""An attack that optimises may start from what a closed form has found, and says whether it did."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_victims import observe, paper_mlp, psnr
from torch import Tensor, nn

import attacks
from attacks import Observation, ThreatModel
from defenses import compose
from defenses.base import Turn

PRUNING = {"name": "pruning", "keep": 0.15}


def victim(*, batch: int = 1, bias: bool = True) -> tuple[nn.Module, Tensor, Observation]:
    torch.manual_seed(3)
    model = paper_mlp(dropout=0.0, inputs=64, width=48, classes=4, bias=bias)
    images = torch.rand(batch, 1, 8, 8) * 2 - 1
    observation = observe(model, images, torch.arange(batch) % 4, mean=(0.5,), std=(0.5,), classes=4)
    update = compose([PRUNING]).on_update(dict(observation.update), turn=Turn(lambda name, site, x: None))
    return model, images, replace(observation, update=update, defense=(PRUNING,))


def run(model: nn.Module, observation: Observation, name: str = "inverting_gradients", **keys: object):
    attack = attacks.create(name, **keys)
    attack.compile = "never"
    return attack(observation, ThreatModel(), model)


@pytest.mark.parametrize("name", ["inverting_gradients", "dropout_inversion", "mask_readout"])
def test_it_starts_where_the_closed_form_ended(name: str) -> None:
    model, _, observation = victim()
    solved = attacks.create("first_linear")(observation, ThreatModel(), model)
    started = run(model, observation, name, iterations=1, start="first_linear")
    torch.testing.assert_close(started.images, solved.images.clamp(-1, 1))
    assert started.details["start"] == "first_linear"
    assert "start" not in run(model, observation, name, iterations=1).details


def test_what_it_finds_from_there_is_no_worse_and_comes_sooner() -> None:
    model, images, observation = victim(bias=False)
    warm, cold = (run(model, observation, iterations=60, start=start) for start in ("first_linear", "random"))
    assert psnr(warm.images, images, 0.5) > psnr(cold.images, images, 0.5) + 3


def test_where_the_closed_form_declines_the_start_is_random_and_it_says_so() -> None:
    model, _, observation = victim(batch=2)
    warm, cold = (run(model, observation, iterations=1, start=start) for start in ("first_linear", "random"))
    assert torch.equal(warm.images, cold.images)
    assert warm.details["start"].startswith("random: ")


@pytest.mark.parametrize("start", ["dropout_inversion", "nobody", 3])
def test_only_closed_forms_can_be_started_from(start: object) -> None:
    with pytest.raises(ValueError, match=f"start = {start!r} is neither 'random' nor a closed form .*first_linear"):
        attacks.create("inverting_gradients", start=start)

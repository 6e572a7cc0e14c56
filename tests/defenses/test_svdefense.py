"""SVDefense passes a gradient of rank one whatever sizes its entries have; who is told of it compares what is left."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import Observation, ThreatModel, search
from defenses import compose
from defenses.base import Turn
from defenses.client.kept import Spaces, remains
from defenses.client.round import ClientRound, play
from defenses.update.svdefense import SVDefense

TURN = Turn(lambda name, site, x: None)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("scale", [1e-3, 1e-10])
def test_squares_that_are_too_small_for_float32_do_no_harm(scale: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    delta = torch.randn(64, generator=draw) * (torch.rand(64, generator=draw) < 0.5) * torch.logspace(0, -15, 64)
    entered = torch.randn(96, generator=draw) * torch.logspace(0, -20, 96)
    update = {"weight": torch.outer(delta, entered) * scale}
    sent = SVDefense().on_update(update, turn=TURN)
    assert float((sent["weight"] - update["weight"]).norm()) < 1e-6 * float(update["weight"].norm())


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (4, 2, 3, 3)])
def test_what_is_left_of_the_truth_is_what_was_sent(shape: tuple[int, ...]) -> None:
    update = {"weight": torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))}
    update["bias"] = torch.ones(shape[0], dtype=torch.float64)
    sent = SVDefense(energy=0.7).on_update(update, turn=TURN)
    kept = SVDefense(energy=0.7).selection(sent)
    rank = int(torch.linalg.matrix_rank(sent["weight"].flatten(1)))
    assert isinstance(kept["weight"], Spaces)
    assert kept["weight"].left.shape == (shape[0], rank)
    assert rank < min(shape[0], sent["weight"][0].numel())
    for name, value in update.items():
        torch.testing.assert_close(remains(kept[name], value), sent[name])
    other = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    assert not torch.allclose(remains(kept["weight"], other), sent["weight"])


def test_of_a_gradient_of_rank_one_an_image_that_is_no_multiple_of_it_does_not_pass() -> None:
    """As it would if only `U^T G V` were compared, one number."""
    draw = torch.Generator().manual_seed(5)
    delta, image, more = (torch.randn(size, generator=draw, dtype=torch.float64) for size in (6, 8, 8))
    kept = SVDefense().selection({"weight": torch.outer(delta, image)})
    seen = remains(kept["weight"], torch.outer(delta, image + more))
    torch.testing.assert_close(seen, torch.outer(delta, image + more))


def test_nothing_is_compared_of_what_is_zero() -> None:
    kept = SVDefense().selection({"weight": torch.zeros(4, 3)})
    assert not kept["weight"].any()
    assert not remains(kept["weight"], torch.ones(4, 3)).any()


def test_it_speaks_only_where_nothing_changes_the_update_behind_it() -> None:
    update = {"head.bottleneck.encoder.weight": torch.randn(4, 6), "head.weight": torch.randn(3, 4)}
    spec, noise = {"name": "svdefense"}, {"name": "gaussian_noise", "std": 1e-3}
    assert isinstance(compose([noise, spec]).selection(update)["head.weight"], Spaces)
    assert not compose([spec, noise]).selects
    behind = compose([{"name": "precode"}, spec]).selection(update)  # of which the head is left out
    assert isinstance(behind["head.bottleneck.encoder.weight"], Spaces)
    assert not behind["head.weight"].any()


def model() -> nn.Module:
    torch.manual_seed(2)
    layers = [nn.Linear(64, 96, bias=False), nn.GELU(), nn.Linear(96, 48), nn.GELU(), nn.Linear(48, 5, bias=False)]
    return nn.Sequential(nn.Flatten(), *layers)


def test_who_is_told_rebuilds_a_batch_that_was_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a decomposition in each iteration: by ghost matching."""
    used: list[str] = []

    def choose(*arguments, **named):
        found = original(*arguments, **named)
        used.append(type(found).__name__)
        return found

    original = search.choose
    monkeypatch.setattr(search, "choose", choose)
    spec = {"name": "svdefense", "energy": 0.7}
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1
    labels, client = torch.arange(4), model()
    state = {name: value.clone() for name, value in client.state_dict().items()}
    round = ClientRound(model=client, defense=compose([spec]))
    played = play(round, state, images, labels, lambda site, step: torch.Generator().manual_seed(7))
    seen = Observation(
        state=state, update=played.update, input_shape=(1, 8, 8), classes=5, mean=(0.5,), std=(0.5,), labels=labels
    )
    attack = attacks.create("inverting_gradients", iterations=800)
    attack.compile = "never"

    def psnr(found: Tensor) -> float:
        return float(-10 * ((found - images) / 2).square().mean().log10())

    blind, told = (
        psnr(attack(replace(seen, defense=granted), ThreatModel(), model()).images) for granted in (None, (spec,))
    )
    assert used == ["Ghost", "Ghost"]
    assert blind < 18
    assert told >= blind + 8

"""An attack that is told of the defense on an update beats one that is not, and is as fast where that is possible."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, Observation, ThreatModel, search
from attacks.evaluators.choose import _kept
from defenses import compose
from defenses.client.optimizers.adamw import AdamW
from defenses.client.round import ClientRound, play


def model() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48, bias=False), nn.GELU(), nn.Linear(48, 5, bias=False))


def seen(spec: dict) -> tuple[Tensor, Observation]:
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1
    labels, client = torch.tensor([3]), model()
    state = {name: value.clone() for name, value in client.state_dict().items()}
    draw = lambda site, step: torch.Generator().manual_seed(7)  # noqa: E731
    played = play(ClientRound(model=client, defense=compose([spec])), state, images, labels, draw)
    observation = Observation(
        state=state, update=played.update, input_shape=(1, 8, 8), classes=5, mean=(0.5,), std=(0.5,), labels=labels
    )
    return images, observation


def psnr(found: Tensor, images: Tensor) -> float:
    return float(-10 * ((found - images) / 2).square().mean().log10())


@pytest.mark.parametrize(
    ("spec", "gain", "evaluator"),
    [
        ({"name": "pruning", "keep": 0.3}, 6, "Ghost"),
        ({"name": "pruning", "keep": 0.1}, 6, "Ghost"),
        ({"name": "random_sparsification", "keep": 0.3}, 6, "Ghost"),
        ({"name": "partial_perturbation", "std": 1.0, "parameters": "3.*"}, 20, "Ghost"),
        ({"name": "soteria", "prune": 0.5}, 15, "Ghost"),
        ({"name": "outpost", "decay": 0.0}, 6, "Ghost"),
        ({"name": "sign"}, 1, "General"),
        ({"name": "quantization", "levels": 16}, 0.2, "General"),  # more on larger models: test_known_noise
    ],
    ids=str,
)
def test_it_is_worth_knowing(spec, gain, evaluator, monkeypatch) -> None:
    used = []

    def choose(*arguments, **named):
        used.append(original(*arguments, **named))
        return used[-1]

    original = search.choose
    monkeypatch.setattr(search, "choose", choose)
    images, observation = seen(spec)
    attack = attacks.create("inverting_gradients", iterations=800)
    attack.compile = "never"
    blind, told = (
        psnr(attack(replace(observation, defense=granted), ThreatModel(), model()).images, images)
        for granted in (None, (spec,))
    )
    assert type(used[1]).__name__ == evaluator
    assert told >= blind + gain


def test_noise_that_is_right_on_average_is_matched_as_if_there_were_none() -> None:
    for spec in (
        {"name": "gaussian_noise", "std": 1e-3},
        {"name": "laplace_noise", "scale": 1e-3},
        {"name": "local_dp", "sensitivity": 1e-3},
    ):
        _, observation = seen(spec)
        attack = attacks.create("inverting_gradients", iterations=50)
        attack.compile = "never"
        blind, told = (
            attack(replace(observation, defense=granted), ThreatModel(), model()) for granted in (None, (spec,))
        )
        torch.testing.assert_close(told.images, blind.images)


def test_each_victim_is_compared_by_what_its_own_update_leaves() -> None:
    """Of one the noise hides the head, the other's gradient is too large for that."""
    spec = {"name": "partial_perturbation", "std": 1.0, "parameters": "3.*"}
    large = {"1.weight": torch.full((48, 64), 2.0), "3.weight": torch.ones(5, 48)}
    small = {name: value / 1000 for name, value in large.items()}
    observed = {name: torch.stack([large[name], small[name]]) for name in large}
    kept = _kept(ClientRound(model=model(), defense=compose([spec])), observed)
    assert kept is not None
    assert [[bool(mask.all()) for mask in kept[name]] for name in large] == [[True, True], [True, False]]
    assert _kept(ClientRound(model=model(), defense=compose([spec])), {n: v[:1] for n, v in observed.items()}) is None


def test_a_part_that_would_leave_nothing_to_compare_is_not_heard() -> None:
    """PRECODE leaves out what is behind the draw, and all that is before it may be noise."""
    names = ("head.bottleneck.encoder.weight", "head.bottleneck.encoder.bias", "head.bottleneck.decoder.weight")
    observed = {name: torch.ones(5) for name in names}
    for pattern, left in (("*.encoder.bias", {names[0]}), ("*.encoder.*", {*names[:2]})):
        parts = [{"name": "precode"}, {"name": "partial_perturbation", "std": 3.0, "parameters": pattern}]
        kept = compose(parts).selection(observed)
        assert kept is not None
        assert {name for name, mask in kept.items() if mask.all()} == left
        assert not any(mask.any() for name, mask in kept.items() if name not in left)


def test_the_only_step_of_adamw_is_attacked_as_the_soft_sign_that_it_nearly_is() -> None:
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1
    labels, client = torch.tensor([3]), model()
    state = {name: value.clone() for name, value in client.state_dict().items()}
    local = LocalTraining(learning_rate=1e-3, optimizer=AdamW())
    draw = lambda site, step: torch.Generator().manual_seed(7)  # noqa: E731
    played = play(ClientRound(model=client, local=local, share="delta"), state, images, labels, draw)
    observation = Observation(
        state=state,
        update=played.update,
        kind="delta",
        input_shape=(1, 8, 8),
        classes=5,
        mean=(0.5,),
        std=(0.5,),
        labels=labels,
        local=local,
    )
    attack = attacks.create("inverting_gradients", iterations=400)
    attack.compile = "never"
    told, assumed = (
        psnr(attack(replace(observation, local=known), ThreatModel(), model()).images, images)
        for known in (local, LocalTraining(learning_rate=1e-3))
    )
    assert told >= assumed + 1

"""What defenses say of the noise on an update is what lies on it."""

from __future__ import annotations

import pytest
import torch
from played_defenses import an_update, turn

import defenses
from defenses.base import Defense
from defenses.client.spread import Spread

STRONG = {"gaussian_noise": {"std": 0.3}, "laplace_noise": {"scale": 0.3}, "gradient_dropout": {"std": 0.3}}
TELLING = [name for name in defenses.names() if defenses.get(name).spread is not Defense.spread]
ON_UPDATES = [name for name in TELLING if defenses.get(name).on_update is not Defense.on_update and name != "outpost"]
"""What outpost says is of gradients of rank one: `tests/attacks/test_known_noise.py` tries it on one."""


def test_defenses_with_noise_of_their_own_say_so() -> None:
    assert {*STRONG, "local_dp", "dp_sgd", "partial_perturbation", "training_randomness", "outpost"} <= set(TELLING)


@pytest.mark.parametrize("name", ON_UPDATES)
def test_the_noise_is_as_large_as_is_said(name: str) -> None:
    """On what says something, beside a multiple of what was there, or alone."""
    defense = defenses.create(name, **STRONG.get(name, {}))
    update = {n: v for n, v in an_update().items() if v.dim()}
    update["layer.weight"][:20] = 0  # as of units that were dropped
    sent = defense.on_update(update, turn=turn(5))
    spread = defense.spread(sent, examples=1, rate=1.0)
    assert spread is not None
    before, after = update["layer.weight"].double(), sent["layer.weight"].double()
    added = spread.added["layer.weight"].expand_as(after)
    said = added.isfinite()
    if spread.alone is not None:
        factor = float((after / before)[20:].median())
        replaced = (after - factor * before).abs() > 1e-5
        assert float(after[replaced].std()) == pytest.approx(float(spread.alone["layer.weight"]), rel=0.05)
        assert 0.2 < float(replaced.double().mean()) < 0.6
        return
    factor = float((after * before)[said].sum() / before[said].square().sum())
    rest = (after - factor * before)[said]
    noisy = added[said] > 0
    assert float(rest[~noisy].abs().sum()) < 1e-3 * float(before.abs().sum())
    if bool(noisy.any()):
        level = (rest[noisy] / added[said][noisy]).square().mean().sqrt()
        assert 0.9 < float(level) < 1.1 or name == "sign"


def test_two_noises_add_up_and_what_is_missing_stays_missing() -> None:
    observed = an_update()
    several = defenses.compose(
        [{"name": "gaussian_noise", "std": 3.0}, {"name": "clip"}, {"name": "gaussian_noise", "std": 4.0}]
    )
    spread = several.spread(observed, examples=1, rate=1.0)
    assert spread is not None
    assert {float(value) for value in spread.added.values()} == {5.0}
    kept = {name: torch.rand(value.shape) < 0.5 for name, value in observed.items()}
    both = spread.then(Spread.left(kept))
    assert all(torch.equal(both.added[name].isfinite(), kept[name]) for name in kept)
    assert both.misses
    assert not defenses.compose([{"name": "clip"}]).spreads
    assert defenses.compose([{"name": "clip"}]).spread(observed, examples=1, rate=1.0) is None

"""Flower's `LocalDpMod`, and what its noise is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from flwr.client.mod import localdp_mod
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from opacus.accountants import PRVAccountant, RDPAccountant

import defenses
from defenses.base import Turn
from defenses.client.site import Sampling

BUDGET = {"clipping_norm": 0.7, "sensitivity": 0.3, "epsilon": 0.9, "delta": 1e-3}


@pytest.mark.parametrize("size", [0.01, 3.0])  # below and above the norm
def test_it_sends_what_flowers_mod_sends(size, monkeypatch) -> None:
    """With the same standard normal numbers, weights and all; float64, so that nothing hides in rounding."""
    shapes = {"a": (5, 4), "b": (3,)}
    generator = torch.Generator().manual_seed(1)
    state, update = (
        {name: size * torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in shapes.items()}
        for _ in range(2)
    )
    source = Sampling(lambda site, step: torch.Generator().manual_seed(len(site) + ord(site[-1])))
    ours = defenses.create("local_dp", **BUDGET).on_update(update, turn=Turn(source.draw))

    drawn = iter(source.drawn.values())
    monkeypatch.setattr(np.random, "normal", lambda mean, deviation, shape: mean + deviation * next(drawn).numpy())
    sent, received = [(state[n] + update[n]).numpy() for n in state], [value.numpy() for value in state.values()]
    localdp_mod.compute_clip_model_update(sent, received, BUDGET["clipping_norm"])
    theirs = parameters_to_ndarrays(
        localdp_mod.add_localdp_gaussian_noise_to_params(
            ndarrays_to_parameters(sent), BUDGET["sensitivity"], BUDGET["epsilon"], BUDGET["delta"]
        )
    )
    for name, value in zip(state, theirs, strict=True):
        torch.testing.assert_close(state[name] + ours[name], torch.from_numpy(value), rtol=1e-12, atol=1e-12)


def spent(**changes: float) -> float:
    parameters = {"clipping_norm": 0.5, "sensitivity": 1.0, "epsilon": 1.0, "delta": 1e-5, **changes}
    accounting = defenses.create("local_dp", **parameters).accounting(updates=1, steps=3, batch_size=1, examples=9)
    assert accounting.delta == 1e-5
    return accounting.epsilon


def test_the_noise_is_worth_its_budget_where_the_sensitivity_is_that_of_the_clipped_update() -> None:
    for epsilon in (0.1, 0.5, 1.0):
        assert 0.5 * epsilon < spent(epsilon=epsilon) < epsilon  # the formula's proof is not tight
    assert spent(clipping_norm=5.0) > 5  # ten times what it was told
    assert spent(sensitivity=0.0) == math.inf
    assert spent(epsilon=1000.0) > 1000


def test_epsilon_is_where_the_privacy_loss_exceeds_it_with_probability_delta() -> None:
    """The loss L of two updates d apart is N(m, 2 m), m = d^2 / 2 std^2; delta = E max(0, 1 - e^(eps - L))."""
    epsilon = spent()
    deviation = math.sqrt(2 * math.log(1.25e5))
    mean = 1 / (2 * deviation**2)
    loss = torch.linspace(mean - 12 * math.sqrt(2 * mean), mean + 12 * math.sqrt(2 * mean), 400_001).double()
    density = torch.distributions.Normal(mean, math.sqrt(2 * mean)).log_prob(loss).exp()
    failing = torch.trapezoid(density * (1 - (epsilon - loss).exp()).clamp_min(0), loss)
    assert float(failing) == pytest.approx(1e-5, rel=1e-3)


@pytest.mark.parametrize("updates", [1, 4, 60])
def test_several_updates_are_several_gaussian_mechanisms_however_many_steps_each_takes(updates) -> None:
    """Opacus' accountants add them up: the one of Renyi divergences from above, the other up to its error of 0.01."""
    defense = defenses.create("local_dp", clipping_norm=0.5, sensitivity=2.0)
    found = defense.accounting(updates=updates, steps=5 * updates, batch_size=8, examples=9)
    assert found == defense.accounting(updates=updates, steps=updates, batch_size=1, examples=900)
    renyi, loss = RDPAccountant(), PRVAccountant()
    for accountant in (renyi, loss):
        accountant.history = [(defense.std / 1.0, 1.0, updates)]
    assert found.epsilon < renyi.get_epsilon(delta=1e-5)
    assert loss.get_epsilon(delta=1e-5) - 0.02 < found.epsilon <= loss.get_epsilon(delta=1e-5)

"""What an attacker may look for, and what nobody can: one unknown an entry of the update fits any image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import defenses
from attacks.sites import noise_inputs, noise_sites
from attacks.twin import attacker_copy
from defenses.base import Turn
from defenses.client.round import ClientRound
from defenses.stochastic import Dropout
from fedsim.reporting.naming import needed_for

OF_ENTRIES = {
    "gaussian_noise": {},
    "laplace_noise": {},
    "local_dp": {},
    "partial_perturbation": {},
    "random_sparsification": {},
    "quantization": {},
    "gradient_dropout": {},
    "censor": {"trials": 2},
    "outpost": {},
}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Sigmoid(), Dropout(0.0), nn.Linear(6, 3))


@pytest.mark.parametrize("name", OF_ENTRIES)
def test_noise_of_entries_is_no_unknown(name) -> None:
    """Nor where another defense draws what can be looked for."""
    client = model()
    twin = attacker_copy(client, client.state_dict())
    parts = [{"name": "mixup"}, {"name": name, **OF_ENTRIES[name]}]
    found = noise_sites(ClientRound(model=twin, defense=defenses.compose(parts), classes=3), 2, (1, 3, 3))
    assert set(found) == {"mixup:weight", "mixup:permutation"}
    assert needed_for("inverting_gradients", name) == "defense"


@pytest.mark.parametrize(("per", "shape"), [("example", (2, 6)), ("batch", (6,))])
def test_masks_are(per, shape) -> None:
    defense = defenses.create("training_randomness", per=per)
    twin = defense.on_model(attacker_copy(model(), model().state_dict()))
    assert list(noise_inputs(twin, 2, (1, 3, 3))) == ["3.training_randomness"]
    layer = twin.get_submodule("3.training_randomness")
    assert layer.sample(torch.zeros(2, 6)).shape == shape
    assert needed_for("inverting_gradients", "training_randomness") is False
    assert needed_for("dropout_inversion", "training_randomness") == "defense"


def test_a_truncation_is_differentiated_as_the_projection_that_it_is() -> None:
    defense = defenses.create("svdefense", energy=0.7)
    turn = Turn(lambda name, site, x: None)

    def energy(value: torch.Tensor) -> torch.Tensor:
        return defense.surrogate({"w": value}, turn=turn)["w"].square().sum()

    values = torch.randn(3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = torch.func.vmap(torch.func.grad(energy))(values)
    for value, slope in zip(values, found):
        sent = defense.on_update({"w": value}, turn=turn)["w"]
        assert 0 < int(torch.linalg.matrix_rank(sent)) < 5
        torch.testing.assert_close(slope, 2 * sent)

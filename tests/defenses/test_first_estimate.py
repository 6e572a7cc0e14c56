"""What a rounded first step says of each entry of the gradient, and how well."""

from __future__ import annotations

import math

import pytest
import torch

from defenses.client.optimizers import Optimizer
from defenses.client.optimizers.adam import Adam
from defenses.client.optimizers.adamw import AdamW
from defenses.client.optimizers.sgd import SGD
from defenses.client.training import LocalTraining


@pytest.mark.parametrize(
    "optimizer", [Adam(), Adam(weight_decay=1e-5), AdamW(epsilon=1e-6), SGD(momentum=0.9, weight_decay=0.1)], ids=str
)
def test_each_entry_is_off_by_its_own_error(optimizer: Optimizer) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64}
    weights = {"w": torch.randn(4000, **draw)}
    gradient = {"w": torch.randn(4000, **draw).sign() * 10 ** (6 * torch.rand(4000, **draw) - 10)}
    rounding = {"w": 1e-9 * torch.rand(4000, **draw)}
    change, _ = optimizer.update(gradient, optimizer.init(weights), weights, 1e-3)
    seen = {"w": change["w"] + rounding["w"] * torch.randn(4000, **draw)}
    found = LocalTraining(learning_rate=1e-3, optimizer=optimizer).first_estimate(seen, rounding, weights)
    assert found is not None
    value, error = found["w"]
    known = error.isfinite()
    assert known.double().mean() > 0.5
    pull = ((value - gradient["w"]) / error)[known]
    assert 0.8 < float(pull.median().abs() + pull.abs().quantile(0.68)) < 1.25
    assert (pull.abs() < 10).double().mean() > 0.99
    if not isinstance(optimizer, SGD) and not optimizer.spec()["weight_decay"]:
        assert (value.sign() == gradient["w"].sign())[~known].all()


def test_the_smaller_an_entry_the_better_it_is_known_and_large_ones_not_at_all() -> None:
    gradient = {"w": torch.tensor([0.0, 1e-9, 1e-7, 1e-5, 0.1, 1.0], dtype=torch.float64)}
    change, _ = Adam().update(gradient, Adam().init(gradient), gradient, 1e-3)
    found = Adam().first_estimate(change, {"w": torch.full((6,), 1e-9, dtype=torch.float64)}, gradient, 1e-3)["w"]
    assert (found.error.diff()[:4] > 0).all()
    assert found.error.tolist()[4:] == [math.inf, math.inf]
    torch.testing.assert_close(found.value[:4], gradient["w"][:4], rtol=1e-6, atol=0)


def test_entries_that_were_clipped_say_nothing() -> None:
    local = LocalTraining(optimizer=AdamW(), clip_value=1.0)
    weights = {"w": torch.ones(2)}
    assert local.first_estimate(weights, weights, weights) is None

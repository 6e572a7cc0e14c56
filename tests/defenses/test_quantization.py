"""What QSGD leaves certain of an update: the norm, and that each entry lies within a step of what was sent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from defenses import compose, create
from defenses.base import Turn
from defenses.update.quantization import Quantization, _deviance


def sent(defense: Quantization, update: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return defense.on_update(update, turn=Turn(lambda name, site, x: site.sample(x, draw)))


def an_update(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3


@pytest.mark.parametrize("least", [1e-3, 0.01, 0.05])
def test_the_deviance_is_the_integral_of_the_distance_over_the_variance(least: float) -> None:
    distance = torch.linspace(0, 1.6, 400_001, dtype=torch.float64)
    bound = torch.tensor(least, dtype=torch.float64)
    slope = distance / torch.maximum(distance * (1 - distance), bound)
    summed = torch.cumulative_trapezoid(slope, distance)
    torch.testing.assert_close(_deviance(distance[1:], bound), summed, rtol=1e-4, atol=1e-6)
    coarse = _deviance(distance[1:].float(), bound)
    torch.testing.assert_close(coarse.double(), summed, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("levels", [1, 16, 1000])
def test_what_was_sent_is_explained_best_by_the_update_itself_at_any_scale(levels: int) -> None:
    defense = Quantization(levels=levels)
    truth = {"w": an_update(60, 50), "b": an_update(60, seed=1)}
    observed = sent(defense, truth)
    explained = float(defense.compare(truth, observed))
    assert float(defense.compare({n: 7 * v for n, v in truth.items()}, observed)) == pytest.approx(explained)
    for seed in range(5):
        other = {n: v + 0.3 * v.abs().mean() * torch.randn(v.shape, dtype=v.dtype) for n, v in truth.items()}
        assert float(defense.compare(other, observed)) > explained, seed
    assert float(defense.compare(observed, observed)) != explained
    of_chance = float(defense.compare({n: an_update(*v.shape, seed=9) for n, v in truth.items()}, observed))
    assert of_chance > 1.2 * explained


def test_it_can_be_traced_and_is_finite_where_nothing_was_sent() -> None:
    defense = Quantization(levels=4)
    observed = torch.stack([sent(defense, {"w": an_update(30)})["w"], torch.zeros(30, dtype=torch.float64)])
    guesses = torch.stack([an_update(30, seed=3), torch.zeros(30, dtype=torch.float64)])
    loss = lambda ours, theirs: defense.compare({"w": ours}, {"w": theirs})  # noqa: E731
    values, slopes = vmap(loss)(guesses, observed), vmap(grad(loss))(guesses, observed)
    assert values.isfinite().all()
    assert slopes.isfinite().all()
    assert slopes[0].any()


@pytest.mark.parametrize(("levels", "entries"), [(16, 40_000), (1, 500), (16, 10), (64, 10), (16, 2)])
def test_how_many_steps_were_sent_is_read_through_the_rounding_of_the_weights(levels: int, entries: int) -> None:
    """A float32 delta shows more values than were sent; and of few entries none may be of a single step."""
    defense = Quantization(levels=levels)
    for seed in range(10):
        update = {"w": 1e-5 * an_update(entries, seed=seed).float()}
        steps = (sent(defense, update, seed)["w"] / (update["w"].norm() / levels)).round()
        weights = 0.1 * torch.randn(entries, generator=torch.Generator().manual_seed(seed))
        delta = (weights + sent(defense, update, seed)["w"]) - weights
        if entries > 1000:
            assert len(delta.unique()) > 3 * len(steps.unique())
        found = defense._steps(delta)
        divisor = int(torch.tensor([int(s) for s in steps[steps != 0].abs()]).min()) if steps.any() else 1
        if divisor <= 8:
            assert torch.equal(found, steps), seed


def test_it_compares_only_as_the_last_part_that_changes_the_update_and_without_noise_below() -> None:
    rounds, clip, noise = {"name": "quantization"}, {"name": "clip", "norm": 1.0}, {"name": "gaussian_noise"}
    assert compose([rounds]).compares
    assert compose([clip, rounds]).compares
    assert compose([{"name": "precode"}, rounds]).compares
    assert not compose([rounds, clip]).compares
    assert not compose([noise, rounds]).compares
    assert not compose([{"name": "dp_sgd"}, rounds]).compares
    assert not compose([clip]).compares
    with pytest.raises(ValueError, match=r"only one defense .* how updates are compared, not quantization and quant"):
        compose([rounds, {**rounds, "levels": 4}])
    assert compose([clip, rounds]).spread({"w": an_update(9)}, examples=1, rate=1.0).steps is not None
    assert compose([noise, rounds]).spread({"w": an_update(9)}, examples=1, rate=1.0).steps is None
    assert create("quantization").keeps_direction

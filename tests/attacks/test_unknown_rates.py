"""A dropout rate that the server does not know is found together with the masks."""

from __future__ import annotations

import copy

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD, mnist, observe, paper_mlp, psnr
from torch import Tensor, nn

import attacks
from attacks import Observation, ThreatModel
from defenses.stochastic import AlphaDropout, Dropout, FeatureDropout, untold

UNKNOWN = ThreatModel(dropout_rate="unknown")


def hidden(model: nn.Module) -> nn.Module:
    """What an attacker builds who is not told the rates."""
    twin = copy.deepcopy(model)
    for layer in twin.modules():
        if isinstance(layer, Dropout):
            layer.p = 0.0
    return twin


def clients(count: int, rate: float) -> tuple[nn.Module, list[Observation], Tensor]:
    torch.manual_seed(0)
    model, (images, labels) = paper_mlp(dropout=rate, width=128), mnist(count)
    normalisation = {"mean": (MNIST_MEAN,), "std": (MNIST_STD,)}
    seen = [
        observe(model, images[i : i + 1], labels[i : i + 1], seed=i, **normalisation)  # type: ignore[arg-type]
        for i in range(count)
    ]
    return model, seen, images


@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_masks_and_their_rate_are_found(rate: float) -> None:
    model, seen, images = clients(2, rate)
    answers = attacks.create("dropout_inversion", iterations=1500).run(seen, UNKNOWN, hidden(model))
    at_rest = attacks.create("inverting_gradients", iterations=300).run(seen, UNKNOWN, hidden(model))
    for number, (answer, without) in enumerate(zip(answers, at_rest)):
        truth = images[number : number + 1]
        assert psnr(without.images, truth, MNIST_STD) < 25
        assert psnr(answer.images, truth, MNIST_STD) > 35
        for site, drawn in (seen[number].noise or {}).items():
            assert 1 - float(answer.noise[site].mean()) == pytest.approx(1 - float(drawn.mean()), abs=0.08)


def test_an_answer_does_not_depend_on_the_other_victims() -> None:
    model, seen, _ = clients(3, 0.5)
    attack = attacks.create("dropout_inversion", iterations=5)
    together, [alone] = attack.run(seen, UNKNOWN, hidden(model)), attack.run(seen[1:2], UNKNOWN, hidden(model))
    torch.testing.assert_close(together[1].images, alone.images, rtol=0, atol=1e-4)


def test_the_rate_of_each_example_is_what_its_mask_drops() -> None:
    x = torch.rand(3, 8, 2, 2, dtype=torch.float64)
    mask = torch.tensor([[1.0] * 8, [1.0, 0] * 4, [0.0] * 7 + [0.5]], dtype=torch.float64)
    kept = torch.tensor([1, 0.5, 0.0625], dtype=torch.float64).view(3, 1, 1, 1)
    channels = untold(FeatureDropout(0.9))
    shaped = mask[:, :, None, None]
    torch.testing.assert_close(channels.inject(x, shaped), x * shaped / kept)
    assert channels.penalty(shaped) == 0
    alpha, told = untold(AlphaDropout(0.0)), AlphaDropout(0.5)
    torch.testing.assert_close(alpha.inject(x[1:2], shaped[1:2]), told.inject(x[1:2], shaped[1:2]))
    assert alpha.inject(x, torch.zeros_like(x)).isfinite().all()
    drawn = untold(Dropout(0.0)).sample(torch.zeros(1, 10_000), torch.Generator().manual_seed(0))
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)


def test_only_the_models_own_layers_are_of_unknown_rates() -> None:
    model = nn.Sequential(Dropout(0.0), Dropout(0.3))
    model[1].added = True  # by a defense, which is known or at rest
    untold(model)
    assert [layer.idle for layer in model] == [False, False]
    assert [layer.told for layer in model] == [False, True]


def test_a_known_rate_is_taken_as_it_is() -> None:
    model, [observation], _ = clients(1, 0.5)
    attack = attacks.create("dropout_inversion", iterations=3)
    answer = attack(observation, ThreatModel(), hidden(model))
    assert answer.noise is None
    assert set(attack(observation, UNKNOWN, hidden(model)).noise or {}) == {"3", "6", "9"}


@pytest.mark.parametrize("rate", [0.5, 0.2])
@pytest.mark.parametrize("name", ["mask_readout", "cut"])
def test_where_masks_are_read_off_the_update_so_is_their_rate(name: str, rate: float) -> None:
    """The share of zeros is within a few units of it: nearly as much is found as by who is told."""
    torch.manual_seed(0)
    layers = [nn.Linear(784, 96), nn.GELU(), nn.Linear(96, 256, bias=False), nn.GELU(), Dropout(rate)]
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), *layers, nn.Linear(256, 10))
    if name == "mask_readout":
        model, seen, images = clients(2, rate)
    else:
        images, labels = mnist(2)
        told = {"mean": (MNIST_MEAN,), "std": (MNIST_STD,)}
        seen = [observe(model, images[i : i + 1], labels[i : i + 1], seed=i, **told) for i in range(2)]  # type: ignore[arg-type]
    answers = attacks.create(name, iterations=1200).run(seen, UNKNOWN, hidden(model))
    for number, answer in enumerate(answers):
        assert psnr(answer.images, images[number : number + 1], MNIST_STD) > 30
        for site, drawn in (seen[number].noise or {}).items():
            if name == "mask_readout":
                assert site in answer.details["masks_read"]
                torch.testing.assert_close(answer.noise[site], drawn)

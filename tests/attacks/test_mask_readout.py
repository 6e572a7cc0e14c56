"""Mask readout is the oracle's attack without the oracle; what it cannot read it optimises, as DIA does."""

import dataclasses

import pytest
import torch
from attack_victims import observe, paper_mlp, psnr
from torch import Tensor, nn

import attacks
from attacks import NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.facts import Facts
from attacks.matching.mask_readout import MaskReadout
from attacks.priors import DropRate
from attacks.twin import attacker_copy
from defenses.stochastic import Dropout, stochastic_layers
from fedsim.models import build

INPUT = {"mean": (0.5,), "std": (0.5,), "classes": 4}


def gelu(seed: int, *, rate: float = 0.5) -> tuple[nn.Module, Tensor, Observation]:
    torch.manual_seed(seed)
    model = paper_mlp(dropout=rate, inputs=64, width=64, classes=4)
    images = torch.rand(1, 1, 8, 8) * 2 - 1
    return model, images, observe(model, images, torch.tensor([seed % 4]), seed=seed, **INPUT)  # type: ignore[arg-type]


class Half(nn.Module):
    """Dropout between convolutions, whose mask leaves no zeros, and before the head, whose mask does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.inner = Dropout(0.3)
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.outer = Dropout(0.3)
        self.head = nn.Linear(128, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.tanh(self.second(self.inner(torch.tanh(self.first(images)))))
        return self.head(self.outer(x).flatten(1))


def half(seed: int) -> tuple[nn.Module, Tensor, Observation]:
    torch.manual_seed(seed)
    model, images = Half(), torch.rand(1, 1, 8, 8) * 2 - 1
    return model, images, observe(model, images, torch.tensor([1]), seed=seed, **INPUT)  # type: ignore[arg-type]


def answer(name: str, model: nn.Module, observation: Observation, **params: object) -> Reconstruction:
    attack = attacks.create(name, **params)
    return attack(observation, ThreatModel(**attack.given), model)  # type: ignore[arg-type]


def accuracy(result: Reconstruction, observation: Observation) -> dict[str, float]:
    assert result.noise is not None
    assert observation.noise is not None
    return {path: float((mask == observation.noise[path]).float().mean()) for path, mask in result.noise.items()}


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_oracle_without_the_oracle(seed: int) -> None:
    model, images, observation = gelu(seed)
    read = answer("mask_readout", model, dataclasses.replace(observation, noise=None), iterations=200)
    oracle = answer("well_informed", model, observation, iterations=200)
    assert accuracy(read, observation) == {"3": 1.0, "6": 1.0, "9": 1.0}
    assert read.iterations <= oracle.iterations
    assert read.loss == oracle.loss
    torch.testing.assert_close(read.images, oracle.images, rtol=0, atol=0)
    assert psnr(read.images, images, 0.5) >= 30


@pytest.mark.parametrize("rate", [0.25, 0.75])
def test_all_masks_of_the_bundled_mlp_are_right(rate: float) -> None:
    model = build({"name": "mlp", "bias": False, "dropout": rate}, input_shape=(1, 8, 8), classes=4, seed=0)
    observation = observe(model, torch.rand(1, 1, 8, 8), torch.tensor([1]), **INPUT)  # type: ignore[arg-type]
    result = answer("mask_readout", model, observation, iterations=1)
    assert set(accuracy(result, observation).values()) == {1.0}
    assert len(result.details["masks_read"]) == 3


def test_what_cannot_be_read_is_optimised() -> None:
    model, images, observation = half(0)
    assert observation.noise is not None
    result = answer("mask_readout", model, dataclasses.replace(observation, noise=None), iterations=250)
    found = accuracy(result, observation)
    assert result.details["masks_read"] == ["outer"]
    assert list(result.details["masks_unread"]) == ["inner"]
    assert found.keys() == {"inner", "outer"}
    assert found["outer"] == 1.0
    assert ((result.noise["inner"] > 0) & (result.noise["inner"] < 1)).any()  # type: ignore[index]
    plain = answer("inverting_gradients", model, observation, iterations=250)
    assert result.loss < 0.01 * plain.loss
    assert psnr(result.images, images, 0.5) > psnr(plain.images, images, 0.5) + 5


def test_a_read_mask_is_not_penalised_for_its_rate() -> None:
    model, _, observation = half(0)
    assert observation.noise is not None
    twin = attacker_copy(model, observation.state)
    guess = {"images": torch.zeros(1, 1, 1, 8, 8), "noise.outer": torch.zeros(1, 1, 8, 4, 4)}
    assert DropRate(1.0, stochastic_layers(twin))(guess, Facts()).item() == pytest.approx(0.7)
    assert DropRate(1.0, stochastic_layers(twin), known={"outer"})(guess, Facts()).item() == 0


def test_victims_stand_beside_each_other_as_they_stand_alone() -> None:
    model, _, first = half(0)
    images = torch.rand(1, 1, 8, 8) * 2 - 1
    second = observe(model, images, torch.tensor([2]), seed=5, **INPUT)  # type: ignore[arg-type]
    batch = dataclasses.replace(first, batch_size=2)
    no_zeros = dataclasses.replace(first, update={k: v + 1e-4 for k, v in first.update.items()})
    attack = MaskReadout(iterations=20)
    results = attack.run([first, batch, second, no_zeros], ThreatModel(), model)
    alone = [answer("mask_readout", model, one, iterations=20) for one in (first, second)]
    for one, other in zip((results[0], results[2]), alone):
        assert isinstance(one, Reconstruction)
        torch.testing.assert_close(one.images, other.images)
        assert one.noise is not None
        assert torch.equal(one.noise["outer"], other.noise["outer"])  # type: ignore[index]
    assert isinstance(results[1], NotApplicable)
    assert "batch" in str(results[1])
    assert isinstance(results[3], NotApplicable)
    assert "no mask can be read" in str(results[3])


def test_victims_of_whom_different_masks_were_read_run_in_one_round() -> None:
    torch.manual_seed(0)
    model, _, first = gelu(0)
    filled = {name: v + 1e-4 if name == "7.weight" else v for name, v in first.update.items()}
    second = dataclasses.replace(first, update=filled)
    results = MaskReadout(iterations=5).run([first, second], ThreatModel(), model)
    assert all(isinstance(result, Reconstruction) for result in results)
    assert [result.details["masks_read"] for result in results] == [["3", "6", "9"], ["3", "9"]]  # type: ignore[union-attr]
    assert [sorted(result.noise) for result in results] == [["3", "6", "9"]] * 2  # type: ignore[union-attr, arg-type]


def test_it_declines_where_masks_were_drawn_and_none_can_be_read() -> None:
    spec = {"name": "vit", "dropout": 0.5, "width": 16, "heads": 2, "mlp": 16, "depth": 1}
    model = build(spec, input_shape=(1, 8, 8), classes=4, seed=0)
    observation = observe(model, torch.rand(1, 1, 8, 8), torch.tensor([1]), **INPUT)  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match="no mask can be read"):
        answer("mask_readout", model, observation)
    with pytest.raises(NotApplicable, match="no mask can be read"):
        MaskReadout()(observation, ThreatModel(dropout_rate="unknown"), model)


def test_without_dropout_it_is_inverting_gradients() -> None:
    model, _, observation = gelu(0, rate=0.0)
    read = answer("mask_readout", model, observation, iterations=30)
    plain = answer("inverting_gradients", model, observation, iterations=30)
    assert torch.equal(read.images, plain.images)
    assert read.noise is None


def test_a_bad_weight_is_named() -> None:
    with pytest.raises(ValueError, match="drop_rate"):
        MaskReadout(drop_rate=-1)

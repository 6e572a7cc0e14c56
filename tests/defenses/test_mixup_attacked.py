"""Mixed batches under attack: what is known, what is optimised, and what can only be tried."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import attacks
import defenses
from attacks import NotApplicable, Observation, ThreatModel
from attacks.unknowns import Noise, Setting
from defenses.batch.mixup import Permutation, Weight
from defenses.client.round import ClientRound, play

PARTS = [{"name": "mixup", "alpha": 1.0}]
SHAPE, CLASSES = (1, 4, 4), 4
PERMUTATION, WEIGHT = "mixup:permutation", "mixup:weight"


def a_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.Sigmoid(), nn.Linear(64, CLASSES)).double()
    for parameter in model.parameters():
        parameter.data *= 4  # as initialised, hardly any image has a gradient of its own
    return model


def observe(size: int, seed: int) -> tuple[Observation, Tensor]:
    """The gradient of a mixed batch as seen by a server that knows the defense, and the images."""
    model, generator = a_model(), torch.Generator().manual_seed(seed)
    images = torch.rand(size, *SHAPE, dtype=torch.float64, generator=generator)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    round = ClientRound(model=model, defense=defenses.compose(PARTS), classes=CLASSES)
    labels = torch.arange(size) % CLASSES
    drawn = play(round, state, images, labels, lambda site, step: torch.Generator().manual_seed(seed + len(site)))
    return Observation(
        state=state,
        update=drawn.update,
        input_shape=SHAPE,
        classes=CLASSES,
        mean=(0.0,),
        std=(1.0,),
        labels=labels,
        noise=drawn.drawn,
        defense=tuple(PARTS),
    ), images


def mixed(size: int, *, swapped: bool) -> tuple[Observation, Tensor]:
    """The first such victim whose images were, or were not, mixed with one another well."""
    for seed in range(100):
        found, images = observe(size, seed)
        weight, order = found.noise[WEIGHT], found.noise[PERMUTATION]
        if (order.tolist() != list(range(size))) == swapped and 0.6 < float(weight) < 0.75:
            return found, images
    raise AssertionError("no such draw")


def error(images: Tensor, truth: Tensor) -> float:
    return min(float((images - other).square().mean()) for other in (truth, truth.flip(0)))


@pytest.mark.parametrize("swapped", [True, False])
def test_an_attacker_who_knows_of_it_finds_the_images_and_the_permutation(swapped):
    seen, truth = mixed(2, swapped=swapped)
    knows = ThreatModel(defense="known")
    keys = {"iterations": 400, "learning_rate": 0.05, "total_variation": 0.0, "plateau": 100}
    found = attacks.create("dropout_inversion", **keys)(seen, knows, a_model())
    assert found.noise is not None
    naive = attacks.create("dropout_inversion", **keys)(replace(seen, defense=None), ThreatModel(), a_model())
    if swapped:
        assert found.noise[PERMUTATION].tolist() == [1, 0]
        weight = float(found.noise[WEIGHT])  # of two images that are mixed with each other, either is the first
        assert max(weight, 1 - weight) == pytest.approx(float(seen.noise[WEIGHT]), abs=0.05)
        assert error(found.images, truth) < 1e-3 < 0.1 * error(naive.images, truth)
    else:
        assert error(found.images, truth) < 1e-3
    oracle = attacks.create("well_informed", **keys)(seen, replace(knows, noise="known"), a_model())
    assert error(oracle.images, truth) < 1e-3


def test_what_cannot_be_tried_is_declined_with_the_reason():
    seen, _ = observe(4, 0)
    with pytest.raises(NotApplicable, match="drew at mixup:permutation is not known, and more than the 16 values"):
        attacks.create("dropout_inversion", iterations=1)(seen, ThreatModel(defense="known"), a_model())
    attacks.create("well_informed", iterations=1)(seen, ThreatModel(noise="known", defense="known"), a_model())


@pytest.mark.parametrize(("sizes", "count"), [((2,), 2), ((3,), 6), ((2, 2, 2), 8), ((4,), None), ((2, 1), None)])
def test_every_permutation_of_every_step_is_tried_once(sizes, count):
    shape = torch.Size((sizes[0], *SHAPE))
    model = a_model()
    setting = Setting(
        model=model,
        images=sum(sizes),
        classes=CLASSES,
        input_shape=SHAPE,
        mean=(0.0,),
        std=(1.0,),
        noise_inputs={PERMUTATION: shape, WEIGHT: shape},
        matched=(),
        round=ClientRound(model=model),
        sizes=sizes,
        defense_sites={PERMUTATION: Permutation(sizes[0]), WEIGHT: Weight(1.0)},
    )
    noise = Noise(setting)
    assert noise.start(lambda name: torch.Generator())[f"noise.{WEIGHT}"].shape == (len(sizes),)
    if count is None:
        with pytest.raises(NotApplicable):
            noise.alternatives()
        return
    tried = [tuple(one[f"noise.{PERMUTATION}"].tolist()) for one in noise.alternatives()]
    assert len(set(tried)) == len(tried) == count
    assert all(len(one) == sum(sizes) for one in tried)

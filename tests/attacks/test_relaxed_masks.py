"""Masks that are looked for by other relaxations than a box."""

from __future__ import annotations

import pytest
import torch
from attack_victims import observe, psnr
from torch import Tensor, nn

import attacks
from attacks import NotApplicable, ThreatModel
from attacks.objectives import Cosine
from attacks.problems import _start
from attacks.relaxed import RELAXATIONS, Relaxed, in_box, unbounded
from attacks.step import Composition
from attacks.unknowns import NOISE, Images, Setting
from attacks.victim import Victim, setting_of
from defenses.stochastic import Dropout
from defenses.stochastic.concrete import ConcreteDropout
from defenses.stochastic.gaussian_dropout import GaussianDropout


def setting(model: nn.Module) -> Setting:
    observation = observe(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), classes=4)
    victim = Victim.of(0, observation, ThreatModel(), model, needs_labels=True, read=frozenset())
    return setting_of(victim, ThreatModel(), model)


def net(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 200), nn.Sigmoid(), layer, nn.Linear(200, 4))


def draw(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(len(name))


def masks(relaxed: Relaxed) -> tuple[str, Tensor]:
    [(name, free)] = relaxed.start(draw).items()
    return name, free


@pytest.mark.parametrize("relaxation", ["logistic", "annealed"])
def test_logits_stand_for_masks_of_the_rate_at_first(relaxation):
    relaxed = Relaxed(setting(net(Dropout(0.2))), relaxation)
    name, free = masks(relaxed)
    mask = relaxed.value(name, free)
    assert mask.mean().item() == pytest.approx(0.8, abs=0.05)
    assert ((mask > 0) & (mask < 1)).all()
    assert not relaxed.confined


def test_nothing_is_put_back_where_logits_may_be_anything():
    relaxed = Relaxed(setting(net(Dropout(0.2))), "logistic")
    far = torch.tensor([[-50.0, 3.0, 50.0]])
    assert torch.equal(relaxed.project(NOISE + "3", far), far)


def test_annealed_masks_become_zeros_and_ones():
    relaxed = Relaxed(setting(net(Dropout(0.5))), "annealed")
    name, free = masks(relaxed)
    for _ in range(4_000):
        free = relaxed.project(name, free)
    mask = relaxed.value(name, free)
    assert (torch.minimum(mask, 1 - mask) < 0.01).float().mean() > 0.9


def test_rounded_masks_have_the_slope_of_the_box():
    relaxed = Relaxed(setting(net(Dropout(0.5))), "straight_through")
    free = torch.tensor([[0.1, 0.6, 0.9]], requires_grad=True)
    mask = relaxed.value(NOISE + "3", free)
    assert mask.tolist() == [[0, 1, 1]]
    weights = torch.tensor([[1.0, 2.0, 3.0]])
    (mask * weights).sum().backward()
    assert torch.equal(free.grad, weights)
    assert relaxed.project(NOISE + "3", torch.tensor([[-1.0, 0.3, 2.0]])).tolist() == [[0, pytest.approx(0.3), 1]]
    assert relaxed.confined


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_a_search_begins_at_a_mask_that_was_found(relaxation):
    model = net(Dropout(0.5))
    relaxed = Relaxed(setting(model), relaxation)
    found = torch.empty(2, 200).bernoulli_(0.5, generator=torch.Generator().manual_seed(1))
    composition = Composition(unknowns=[Images(setting(model)), relaxed], objective=Cosine())
    observation = observe(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), classes=4)
    start = _start(composition, 0, observation, 0, {NOISE + "3": found})
    mask = relaxed.value(NOISE + "3", start[NOISE + "3"])
    torch.testing.assert_close(mask.round(), found)
    assert (mask - found).abs().max() <= 0.0501


def test_what_is_no_box_stands_for_itself():
    assert in_box(Dropout(0.5))
    for layer, free in ((ConcreteDropout(0.5, 0.1, decay=0.0, entropy=0.0), False), (GaussianDropout(0.5), True)):
        assert not in_box(layer)
        relaxed = Relaxed(setting(net(layer)), "logistic")
        name, value = masks(relaxed)
        assert torch.equal(relaxed.value(name, value), value)
        assert relaxed.confined != free
        assert unbounded(layer) == free


def test_lbfgs_finds_image_and_masks():
    """Of convolutions, where the published search has not got far in as many iterations."""
    torch.manual_seed(3)
    first = [nn.Conv2d(1, 8, 3, stride=2), nn.Sigmoid(), nn.Conv2d(8, 8, 3), nn.Sigmoid(), nn.Flatten()]
    model = nn.Sequential(*first, Dropout(0.5), nn.Linear(128, 4))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    images = torch.rand(1, 1, 13, 13) * 2 - 1
    observation = observe(model, images, torch.tensor([0]), mean=(0.5,), std=(0.5,), classes=4)
    smooth = attacks.create("dropout_inversion", iterations=200, masks="logistic", descent="lbfgs")
    found = smooth(observation, ThreatModel(), model)
    published = attacks.create("dropout_inversion", iterations=200)(observation, ThreatModel(), model)
    assert psnr(found.images, images, 0.5) > psnr(published.images, images, 0.5) + 10
    for path, mask in observation.noise.items():
        assert (found.noise[path].round() == mask).float().mean() > 0.9


def test_an_average_over_draws_is_that_of_the_gradients():
    """Of one layer behind which masks act linearly in expectation: more draws, less distance from the expectation."""
    torch.manual_seed(5)
    model = net(Dropout(0.3))
    images = torch.rand(1, 1, 4, 4)
    observation = observe(model, images, torch.tensor([1]), classes=4)
    losses = []
    for averaged in (1, 16):
        keys = {"draws": "anew", "averaged": averaged, "iterations": 200, "learning_rate": 1e-9, "total_variation": 0.0}
        answer = attacks.create("inverting_gradients", **keys)(observation, ThreatModel(), model)
        assert answer.images.shape == images.shape
        assert answer.labels.tolist() == [1]
        values = torch.tensor([loss for _, loss in answer.losses])
        losses.append(values.std().item())
    assert losses[1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"masks": "soft"}, "masks = 'soft' is none of box, logistic, annealed, straight_through"),
        ({"descent": "sgd"}, "descent = 'sgd' is none of adam, lbfgs"),
        ({"descent": "lbfgs"}, "descent = 'lbfgs' needs masks = 'logistic', not 'box'"),
    ],
)
def test_other_words_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        attacks.create("dropout_inversion", **keys)


def test_an_average_needs_draws_and_a_single_step():
    with pytest.raises(ValueError, match="averaged = 2 needs draws = 'anew'"):
        attacks.create("inverting_gradients", averaged=2)
    model = net(Dropout(0.5))
    local = attacks.LocalTraining(steps=2, learning_rate=0.1)
    seen = observe(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), classes=4, local=local)
    with pytest.raises(NotApplicable, match="single step"):
        attacks.create("inverting_gradients", averaged=2, draws="anew")(seen, ThreatModel(), model)

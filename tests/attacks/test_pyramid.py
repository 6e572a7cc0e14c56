"""Deep networks are attacked by pyramids and with smooth images; all others as they were."""

from __future__ import annotations

import pytest
import torch
from attack_victims import observe

import attacks
from attacks import ThreatModel
from attacks.pyramid import Pyramid, deep, total_variation_of
from attacks.victim import Victim, setting_of
from fedsim import models

SHAPE = (3, 13, 8)


def built(name, **keys):
    return models.build({"name": name, **keys}, input_shape=SHAPE, classes=4, seed=0)


def setting(model, images=2):
    seen = observe(model, torch.rand(images, *SHAPE), torch.arange(images), mean=(0.5,) * 3, std=(0.5,) * 3, classes=4)
    threat_model = ThreatModel()
    victim = Victim.of(0, seen, threat_model, model, needs_labels=True, read=frozenset())
    return seen, setting_of(victim, threat_model, model)


@pytest.mark.parametrize(
    ("name", "keys", "is_deep"), [("lenet", {}, False), ("mlp", {}, False), ("resnet18", {"width": 4}, True)]
)
def test_the_rule_reads_the_model(name, keys, is_deep):
    model = built(name, **keys)
    assert deep(model) is is_deep
    assert total_variation_of(model) == (0.2 if is_deep else 1e-5)


def test_a_pyramid_starts_where_it_is_told_to():
    """What is optimised stands for the image itself, whose sides need not be powers of two."""
    pyramid = Pyramid(setting(built("lenet"))[1])
    images = torch.randn(2, *SHAPE)
    free = pyramid.free("images", images)
    torch.testing.assert_close(pyramid.value("images", free[None])[0], images)


def test_all_of_a_coarse_picture_moves_many_pixels():
    pyramid = Pyramid(setting(built("lenet"))[1])
    free = torch.zeros(1, 2, 3 * (13 * 8 + 7 * 4))
    free[..., -1] = 1  # the last place of the coarsest picture of the last channel
    moved = pyramid.value("images", free)[0, 0]
    assert not moved[:2].any()
    assert (moved[2] != 0).sum() > 4


def test_a_shallow_network_loses_nothing():
    model = built("lenet", dropout=0.5)
    victim, _ = setting(model)
    by_rule = attacks.create("multiscale_inversion", iterations=30, plateau=3)(victim, ThreatModel(), model)
    plain = attacks.create("dropout_inversion", iterations=30, plateau=3)(victim, ThreatModel(), model)
    assert torch.equal(by_rule.images, plain.images)

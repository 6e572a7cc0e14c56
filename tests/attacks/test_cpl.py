"""CPL's two additions to DLG: the pattern that images begin with, and the labels that the model is to give them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_victims import observe, paper_mlp
from torch import nn

import attacks
from attacks import LocalTraining, NotApplicable, ThreatModel
from attacks.facts import Facts
from attacks.matching.cpl import CPL, GivenLabel, Patterned
from attacks.unknowns import Setting
from attacks.victim import Victim, setting_of


def setting(model: nn.Module, images: int = 2, classes: int = 4) -> Setting:
    seen = observe(model, torch.rand(images, 1, 6, 7), torch.arange(images) % classes, classes=classes)
    victim = Victim.of(0, seen, ThreatModel(), model, needs_labels=True, read=frozenset())
    return setting_of(victim, ThreatModel(), model)


def a_model() -> nn.Module:
    torch.manual_seed(0)
    return paper_mlp(dropout=0.0, inputs=42, width=16, classes=4, bias=True)


@pytest.mark.parametrize("side", [1, 2, 5, 9])
def test_images_begin_with_one_square_repeated(side: int) -> None:
    start = Patterned(setting(a_model()), side=side).start(lambda name: torch.Generator().manual_seed(1))["images"]
    assert start.shape == (2, 1, 6, 7)
    for y in range(6):
        for x in range(7):
            assert torch.equal(start[..., y, x], start[..., y % side, x % side])
    assert not torch.equal(start[0], start[1])
    assert len(start[0].unique()) == min(side, 6) * min(side, 7)


def test_the_labels_are_compared_with_what_the_model_gives() -> None:
    model = a_model()
    own = setting(model)
    prior = GivenLabel(0.5, own)
    images, labels = torch.rand(3, 2, 1, 6, 7), torch.tensor([[0, 1], [2, 2], [3, 0]])
    entered = model[:-1](images.flatten(0, 1)).unflatten(0, (3, 2))
    assert prior.asks == ("10",)
    found = prior({"images": images, "labels": labels}, Facts(entered={"10": [entered]}))
    hot = nn.functional.one_hot(labels, 4)
    wanted = [0.5 * (model(images[k]).softmax(-1) - hot[k]).square().sum(-1).mean() for k in range(3)]
    torch.testing.assert_close(found, torch.stack(wanted))
    soft = {"images": images, "labels": hot.float()}
    torch.testing.assert_close(prior(soft, Facts(entered={"10": [entered]})), found)
    # a model that is sure of the right labels
    sure = torch.eye(4)[labels] * 100
    other = GivenLabel(1.0, own)
    other.head = nn.Identity()  # type: ignore[assignment]
    assert other({"labels": labels}, Facts(entered={"10": [sure]})).max() < 1e-6


def test_it_begins_with_the_pattern_and_weighs_the_labels_as_told() -> None:
    own = setting(a_model())
    composed = CPL(agreement=0.25, pattern=3).compose(own)
    [images], [prior] = composed.unknowns, composed.priors
    assert isinstance(images, Patterned)
    assert images.side == 3
    assert isinstance(prior, GivenLabel)
    assert prior.weight == 0.25
    assert not CPL(agreement=0.0).compose(own).priors


def test_what_does_not_fit_is_declined() -> None:
    model = a_model()
    images, labels = torch.rand(4, 1, 6, 7), torch.arange(4)
    epochs = observe(model, images, labels, classes=4, local=LocalTraining())
    local = LocalTraining(epochs=2)
    twice = replace(epochs, local=local, batch_size=2, examples=4, order=torch.arange(8) % 4)
    with pytest.raises(NotApplicable, match="take again"):
        attacks.create("cpl", iterations=1)(twice, ThreatModel(batch_order="known"), model)
    last = [nn.Unflatten(1, (5, 1)), nn.Conv1d(5, 4, 1), nn.Flatten()]
    headless = nn.Sequential(nn.Flatten(), nn.Linear(42, 5), nn.GELU(), *last)
    with pytest.raises(NotApplicable, match="no linear layer of 4 outputs"):
        attacks.create("cpl", iterations=1)(observe(headless, images, labels, classes=4), ThreatModel(), headless)
    for key, value in {"pattern": 0, "agreement": -1.0}.items():
        with pytest.raises(ValueError, match=f"cpl: {key} = "):
            attacks.create("cpl", **{key: value})

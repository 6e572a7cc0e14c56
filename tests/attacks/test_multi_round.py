"""A batch that comes back in several rounds: what one round does not say, several do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD, mnist, observe, psnr
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel
from defenses.client.optimizers.adam import Adam
from fedsim import models
from fedsim.scoring.matching import match

GREY = {"mean": (MNIST_MEAN,), "std": (MNIST_STD,)}


def bundled(**keys: object) -> nn.Module:
    spec = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.5, **keys}
    return models.build(spec, input_shape=(1, 28, 28), classes=10, seed=0)


def seen(
    model: nn.Module, images: Tensor, labels: Tensor, rounds: int, local: LocalTraining | None = None
) -> Observation:
    """Of a client in the last of several rounds, between which the server moved the weights by what it was sent."""
    found: list[Observation] = []
    for number in range(rounds):
        one = observe(model, images, labels, seed=number, local=local, **GREY)
        found.insert(0, replace(one, round=number + 1, client=0, earlier=tuple(found)))
        step = 1.0 if local else -0.5
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += step * one.update[name]
    return found[0]


def scores(result: Reconstruction, truth: Tensor) -> Tensor:
    order = match(truth, result.images)
    found = [-torch.inf if i is None else psnr(result.images[i], truth[k], MNIST_STD) for k, i in enumerate(order)]
    return torch.tensor(found)


@pytest.mark.parametrize("local", [None, LocalTraining(learning_rate=0.1)])
def test_a_batch_that_one_round_hides_four_give_away(local: LocalTraining | None) -> None:
    images, labels = mnist(24)
    model = bundled()
    observation = seen(model, images, labels, 4, local)
    try:
        alone = attacks.create("sparse_dictionary")(observation, ThreatModel(), model)
    except NotApplicable:
        pass
    else:
        assert (scores(alone, images) >= 40).sum() < 12
    together = attacks.create("multi_round")(observation, ThreatModel(), model)
    assert together.details["rounds"] == 4
    assert together.details["by"] == "sparse_dictionary"
    assert scores(together, images).min() >= 55
    assert all(together.details["certain"])


@pytest.mark.parametrize("by", ["cocktail_party", "spear", "fidel"])
def test_other_closed_forms_gain_by_rounds_too(by: str) -> None:
    images, labels = mnist(8)
    model = bundled(activation="relu", width=48)
    observation = seen(model, images, labels, 6)
    together = attacks.create("multi_round", by=by)(observation, ThreatModel(), model)
    try:
        alone = float(scores(attacks.create(by)(observation, ThreatModel(), model), images).clamp_min(0).mean())
    except NotApplicable:
        alone = 0.0
    assert float(scores(together, images).clamp_min(0).mean()) >= alone - 1
    assert (scores(together, images) >= 20).sum() >= 6


def test_other_images_in_another_round_are_noticed() -> None:
    images, labels = mnist(16)
    model = bundled(width=128)
    now = observe(model, images[:8], labels[:8], seed=1, **GREY)
    other = observe(model, images[8:], labels[8:], seed=2, **GREY)
    with pytest.raises(NotApplicable, match=r"is of other images: \d+% of it differs"):
        attacks.create("multi_round")(replace(now, earlier=(other,)), ThreatModel(), model)


def test_what_does_not_fit_is_declined() -> None:
    images, labels = mnist(6)
    model = bundled(width=128)
    now, other = (observe(model, images, labels, seed=seed, **GREY) for seed in (1, 2))

    def attacked(*earlier: Observation, of: Observation = now, by: str = "sparse_dictionary") -> Reconstruction:
        return attacks.create("multi_round", by=by)(replace(of, earlier=earlier), ThreatModel(), model)

    with pytest.raises(NotApplicable, match="only one round of this client was seen"):
        attacked()
    single = observe(model, images[:1], labels[:1], **GREY)
    with pytest.raises(NotApplicable, match="of one image a single round says all"):
        attacked(single, of=single)
    fewer = observe(model, images[:5], labels[:5], **GREY)
    with pytest.raises(NotApplicable, match="is of 5 images, not of 6"):
        attacked(fewer)
    lacking = {name: value for name, value in other.update.items() if name != "hidden.0.linear.bias"}
    with pytest.raises(NotApplicable, match=r"round 1 lacks hidden\.0\.linear\.bias"):
        attacked(replace(other, update=lacking))
    adam = replace(other, kind="delta", local=LocalTraining(optimizer=Adam()))
    with pytest.raises(NotApplicable, match="round 1 says each entry with a precision of its own"):
        attacked(adam)
    with pytest.raises(ValueError, match="multi_round: by = 'april' is none of"):
        attacks.create("multi_round", by="april")

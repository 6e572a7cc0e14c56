"""Labels that are read off an update come with the share of them that is to be believed; and they say how many."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_victims import observe, paper_mlp
from torch import Tensor, nn

import attacks
from attacks import LocalTraining, NotApplicable, Observation, ThreatModel
from attacks.labels import infer_labels

CLASSES = 10
CENTRES = 1.2 * torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(0))


def batch(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of ten overlapping clouds, and which."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return (CENTRES[labels] + torch.randn(size, 16, generator=generator)).view(-1, 1, 4, 4), labels


def network(steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, CLASSES))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
    for step in range(steps):
        images, labels = batch(64, 1000 + step)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return model


def measured(model: nn.Module, size: int, *, noise: float = 0.0) -> tuple[float, float]:
    """The mean share of labels that are right, and the mean confidence, over 40 batches."""
    right = confidence = 0.0
    for seed in range(40):
        images, labels = batch(size, seed)
        update = observe(model, images, labels, classes=CLASSES).update
        generator = torch.Generator().manual_seed(seed)
        update = {name: v + noise * torch.randn(v.shape, generator=generator) for name, v in update.items()}
        found = infer_labels(model, update, batch_size=size, classes=CLASSES)
        assert 0 <= found.confidence <= 1
        counts = (torch.bincount(each, minlength=CLASSES) for each in (found.labels, labels))
        right += float(torch.minimum(*counts).sum()) / size / 40
        confidence += found.confidence / 40
    return right, confidence


@pytest.mark.parametrize("steps", [0, 300])
def test_one_label_is_sure(steps: int) -> None:
    right, confidence = measured(network(steps), 1)
    assert right == pytest.approx(1)
    assert confidence > 0.999


def test_labels_of_an_untrained_model_are_sure() -> None:
    right, confidence = measured(network(0), 8)
    assert right > 0.95
    assert confidence > 0.9


@pytest.mark.parametrize(("size", "noise"), [(4, 0.0), (8, 0.0), (32, 0.0), (8, 0.05)])
def test_confidence_falls_with_what_is_right(size: int, noise: float) -> None:
    right, confidence = measured(network(300), size, noise=noise)
    assert right < 0.9
    assert confidence == pytest.approx(right, abs=0.12)


def test_noise_on_one_label_costs_confidence() -> None:
    right, confidence = measured(network(300), 1, noise=0.3)
    assert right < 0.95
    assert confidence < 0.9


def test_without_a_bias_the_largest_row_is_sure_until_noise_hides_it() -> None:
    model = paper_mlp(dropout=0.0, inputs=16, width=16, classes=5)
    observation = observe(model, torch.randn(1, 1, 4, 4), torch.tensor([3]), classes=5)
    assert infer_labels(model, observation.update, batch_size=1, classes=5).confidence > 0.999
    noised = {name: torch.randn(value.shape) for name, value in observation.update.items()}
    assert infer_labels(model, noised, batch_size=1, classes=5).confidence < 0.95


def test_the_last_layer_is_read() -> None:
    """A hidden layer may have as many outputs as there are classes."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Sigmoid(), nn.Linear(5, 5))
    for label in range(5):
        update = observe(model, torch.randn(1, 1, 4, 4), torch.tensor([label]), classes=5).update
        assert infer_labels(model, update, batch_size=1, classes=5).labels.tolist() == [label]


def test_an_answer_says_that_its_labels_were_inferred_and_how_surely() -> None:
    model, (images, labels) = network(300), batch(8, 0)
    observation = replace(observe(model, images, labels, classes=CLASSES), labels=None)
    answer = attacks.create("inverting_gradients", iterations=1)(observation, ThreatModel(labels="inferred"), model)
    assert answer.details["labels"] == "inferred"
    assert 0 < answer.details["label_confidence"] < 1
    known = replace(observation, labels=labels)
    assert "labels" not in attacks.create("inverting_gradients", iterations=1)(known, ThreatModel(), model).details


def test_the_batch_size_follows_the_labels() -> None:
    model, (images, labels) = network(0), batch(8, 0)
    update = observe(model, images, labels, classes=CLASSES).update

    def seen(**fields: object) -> Observation:
        shape, state = (1, 4, 4), model.state_dict()
        return Observation(  # type: ignore[arg-type]
            state=state, update=update, input_shape=shape, classes=CLASSES, mean=(0.0,), std=(1.0,), **fields
        )

    assert seen(labels=labels).batch_size == 8
    assert seen(labels=labels, kind="delta", local=LocalTraining(steps=4)).batch_size == 2
    assert seen(labels=labels, local=LocalTraining(steps=4)).batch_size == 8  # a gradient is of one step
    assert seen().batch_size == 1
    assert seen(labels=labels, batch_size=None).batch_size is None  # not granted stays not granted
    answer = attacks.create("inverting_gradients", iterations=1)(seen(labels=labels), ThreatModel(), model)
    assert len(answer.images) == 8
    with pytest.raises(NotApplicable, match="8 labels for 3 images"):
        attacks.create("inverting_gradients")(seen(labels=labels, batch_size=3), ThreatModel(), model)

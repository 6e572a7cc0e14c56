"""The cascade answers with the first stage that is certain, and optimises from what was learnt where none is."""

import dataclasses

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD, mnist, paper_mlp, psnr
from attack_victims import observe as observe_pixels
from torch import Tensor, nn

import attacks
from attacks import NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.cascade import _keep_certain
from attacks.unknowns import Guess
from defenses.stochastic import Dropout
from fedsim import models


def observe(model: nn.Module, images: Tensor, labels: Tensor) -> Observation:
    return observe_pixels(model, images, labels, mean=(MNIST_MEAN,), std=(MNIST_STD,))


def mlp(width: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return paper_mlp(dropout=0.5, width=width, bias=True)


def vit() -> nn.Module:
    spec = {"name": "vit", "dropout": 0.25, "patch": 7, "depth": 1, "width": 64, "heads": 4, "mlp": 64}
    return models.build(spec, input_shape=(1, 28, 28), classes=10, seed=0)


def conv() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2), nn.Sigmoid(), nn.Flatten(), Dropout(0.5), nn.Linear(8 * 12 * 12, 10)
    )


@pytest.mark.parametrize(
    ("model", "batch", "stage"),
    [
        (mlp(), 1, "first_linear"),
        (vit(), 1, "patch_embedding"),
        (mlp(256), 4, "sparse_dictionary"),
        (conv(), 1, "cut"),
        (conv(), 2, "dropout_inversion"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_stage_that_answers(model: nn.Module, batch: int, stage: str) -> None:
    images, labels = mnist(batch)
    answer = attacks.create("cascade", iterations=30)(observe(model, images, labels), ThreatModel(), model)
    assert answer.details["stage"] == stage
    if answer.iterations == 0:
        assert all(answer.details["certain"])
        distances = (answer.images[:, None] - images[None]).square().flatten(2).mean(2)
        assert sorted(distances.argmin(1).tolist()) == list(range(batch))
        assert distances.amin(1).max() < 1e-6
    else:
        assert {"first_linear", "patch_embedding", "sparse_dictionary"} <= answer.details["declined"].keys()


def noised(observation: Observation, share: float) -> Observation:
    generator = torch.Generator().manual_seed(0)
    update = {
        name: value + share * value.square().mean().sqrt() * torch.randn(value.shape, generator=generator)
        for name, value in observation.update.items()
    }
    return dataclasses.replace(observation, update=update)


def test_an_uncertain_answer_is_where_the_optimisation_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, labels) = vit(), mnist(1)
    observation = noised(observe(model, images, labels), 0.02)
    uncertain = attacks.create("patch_embedding")(observation, ThreatModel(), model)
    assert uncertain.details["certain"] == [False]
    starts: list[Tensor] = []

    def watch(self: object, iteration: int, problems: Tensor, guess: Guess) -> None:
        if iteration == 0:
            starts.append(guess["images"][:, 0].clone())

    preset = attacks.get("dropout_inversion")
    watching = property(lambda self: lambda *step: watch(self, *step), lambda *_: None)
    monkeypatch.setattr(preset, "watch", watching, raising=False)
    answer = attacks.create("cascade", iterations=5, restarts=2)(observation, ThreatModel(), model)
    assert answer.details["stage"] == "dropout_inversion"
    assert "certain of 0 of 1" in answer.details["declined"]["patch_embedding"]
    [start] = starts
    torch.testing.assert_close(start[0], uncertain.images[0])
    assert not torch.allclose(start[1], uncertain.images[0])


def test_images_of_a_batch_that_are_certain_are_kept() -> None:
    torch.manual_seed(0)
    truth = torch.randn(3, 1, 4, 4)
    found = torch.stack([truth[2], torch.zeros(1, 4, 4), truth[0]])
    partial = Reconstruction(images=found, loss=0.0, details={"certain": [True, False, True]})
    kept = _keep_certain(partial, Reconstruction(images=truth + 0.1, loss=0.1))
    assert torch.equal(kept.images[[0, 2]], truth[[0, 2]])
    assert torch.equal(kept.images[1], truth[1] + 0.1)
    assert kept.details["certain"] == [True, False, True]


def test_where_nothing_applies_every_stage_says_why() -> None:
    model, (images, labels) = conv(), mnist(2)
    observation = observe(model, images, labels)
    with pytest.raises(NotApplicable, match=r"patch_embedding: .*dropout_inversion: needs dropout_rate known"):
        attacks.create("cascade")(observation, ThreatModel(dropout_rate="unknown"), model)


def test_uncertain_is_all_there_is_where_nothing_optimises() -> None:
    model, (images, labels) = vit(), mnist(1)
    observation = noised(observe(model, images, labels), 0.02)
    answer = attacks.create("cascade")(observation, ThreatModel(dropout_rate="unknown"), model)
    assert answer.details["stage"] == "patch_embedding"
    assert answer.details["certain"] == [False]
    assert psnr(answer.images, images, MNIST_STD) > 10


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="iterations"):
        attacks.create("cascade", iterations=0)

"""The cascade answers with the first stage that is certain, and optimises from what was learnt where none is."""

import dataclasses

import pytest
import torch
from attack_victims import MNIST_MEAN, MNIST_STD, mnist, paper_mlp, psnr
from attack_victims import observe as observe_pixels
from torch import Tensor, nn

import attacks
from attacks import NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.closed_form.base import ClosedForm, Puzzle
from attacks.rivals import kept_images
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
    assert (answer.stopped is None) == (answer.iterations == 0)  # a closed form has nothing to stop
    if answer.iterations == 0:
        assert all(answer.details["certain"])
        distances = (answer.images[:, None] - images[None]).square().flatten(2).mean(2)
        assert sorted(distances.argmin(1).tolist()) == list(range(batch))
        assert distances.amin(1).max() < 1e-6
    else:
        assert {"first_linear", "patch_embedding", "sparse_dictionary"} <= answer.details["declined"].keys()


def noised(observation: Observation, share: float) -> Observation:
    generator = torch.Generator().manual_seed(1234)
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
    attacks.create("cascade", iterations=5, restarts=2)(observation, ThreatModel(), model)
    [start] = starts
    torch.testing.assert_close(start[0], uncertain.images[0])
    assert not torch.allclose(start[1], uncertain.images[0])


def test_where_nothing_applies_every_stage_says_why() -> None:
    model, (images, labels) = conv(), mnist(2)
    observation = observe(model, images, labels)
    with pytest.raises(NotApplicable, match=r"patch_embedding: .*dropout_inversion: needs labels known"):
        attacks.create("cascade", iterations=5)(observation, ThreatModel(labels="unknown"), model)


def small_vit(rate: float) -> nn.Module:
    spec = {"name": "vit", "dropout": rate, "patch": 7, "depth": 1, "width": 64, "heads": 4, "mlp": 64}
    return models.build(spec, input_shape=(1, 28, 28), classes=10, seed=7)


def both(model: nn.Module, observation: Observation, iterations: int) -> tuple[Reconstruction, Reconstruction]:
    """What the closed form says alone, and the cascade."""
    alone = attacks.create("patch_embedding")(observation, ThreatModel(), model)
    assert alone.details["certain"] == [False]
    return alone, attacks.create("cascade", iterations=iterations)(observation, ThreatModel(), model)


def test_without_masks_the_optimised_image_is_taken_where_it_matches_better() -> None:
    images, labels = mnist(2)
    for index in range(2):
        image, label = images[index, None], labels[index, None]
        model = small_vit(0.0)
        alone, answer = both(model, noised(observe(model, image, label), 0.1), 100)
        assert answer.details["stage"] == "mask_readout"  # there are none to read
        assert psnr(answer.images, image, MNIST_STD) >= psnr(alone.images, image, MNIST_STD) + 1


@pytest.mark.parametrize(("rate", "share"), [(0.5, 0.02), (0.5, 0.5), (0.0, 2.0)])
def test_an_approximate_image_is_not_thrown_away_for_a_worse_one(rate: float, share: float) -> None:
    """With masks to guess any image can be made to match; of mere noise an image that fits the noise does."""
    images, labels = mnist(2)
    for index in range(2):
        image, label = images[index, None], labels[index, None]
        model = small_vit(rate)
        observation = noised(observe(model, image, label), share)
        alone, answer = both(model, observation, 40)
        optimised = attacks.create("dropout_inversion", iterations=40)(observation, ThreatModel(), model)
        assert answer.details["stage"] == "patch_embedding"
        assert torch.equal(answer.images, alone.images)
        assert answer.stopped is None
        assert answer.details["certain"] == [False]
        assert "explains" in answer.details["declined"]["dropout_inversion" if rate else "mask_readout"]
        assert psnr(answer.images, image, MNIST_STD) >= psnr(optimised.images, image, MNIST_STD) + 1


def test_a_batch_of_which_some_images_are_certain_is_completed() -> None:
    model = mlp(256)
    images, labels = mnist(5)
    images, labels = torch.cat([images, images[:1]]), torch.cat([labels, labels[:1]])  # it leaves no trace of its own
    answer = attacks.create("cascade", iterations=10)(observe(model, images, labels), ThreatModel(), model)
    assert answer.details["stage"] == "dropout_inversion"
    assert answer.details["kept"] == {"sparse_dictionary": 5}
    assert len(answer.images) == 6
    assert sum(answer.details["certain"]) == 5
    distances = (answer.images[:, None] - images[None, :5]).square().flatten(2).mean(2)
    assert distances.amin(0).max() < 1e-6
    assert distances[torch.tensor(answer.details["certain"])].amin(1).max() < 1e-6


def test_directions_without_a_scale_are_better_than_what_does_not_fit_them() -> None:
    torch.manual_seed(0)
    model = paper_mlp(dropout=0.5, width=256, bias=False)
    images, labels = mnist(4)
    answer = attacks.create("cascade", iterations=30)(observe(model, images, labels), ThreatModel(), model)
    assert answer.details["stage"] == "sparse_dictionary"
    assert not any(answer.details["certain"])
    likeness = nn.functional.normalize(answer.images.flatten(1)) @ nn.functional.normalize(images.flatten(1)).T
    assert sorted(likeness.argmax(1).tolist()) == [0, 1, 2, 3]
    assert likeness.amax(1).min() > 0.999


def test_a_contrast_that_the_update_contradicts_is_not_kept() -> None:
    """Weight and bias clipped each by itself: the direction is exact, the scale wrong, and a simulation shows it."""
    model, (images, labels) = mlp(), mnist(1)
    observation = observe(model, images, labels)
    clipped = {name: value / value.norm() for name, value in observation.update.items()}
    observation = dataclasses.replace(observation, update=clipped)
    answer = attacks.create("cascade", iterations=5)(observation, ThreatModel(), model)
    assert answer.details["stage"] == "cut"
    [alone] = attacks.create("sparse_dictionary").run([observation], ThreatModel(), model)
    assert isinstance(alone, NotApplicable) or alone.details["certain"] == [False]


def pair(images: list[float], certain: list[bool], determined: list[bool]) -> Reconstruction:
    details = {"certain": certain, "determined": determined, "tolerated": 0.1, "stage": "sparse_dictionary"}
    return Reconstruction(images=torch.tensor(images).view(-1, 1, 1, 1), loss=0.0, details=details)


class Stub(ClosedForm):
    """Leaves of an image's equations the image's distance from 1."""

    def unexplained(self, puzzle: Puzzle, images: Tensor) -> Tensor:
        return (images.flatten(1).mean(1) - 1).abs()


def test_each_image_displaces_the_nearest_one_if_it_explains_more() -> None:
    puzzle = Puzzle(None, ThreatModel(), nn.Identity(), 1, 3)  # type: ignore[arg-type]
    optimised = Reconstruction(images=torch.tensor([3.0, 1.12, 0.0]).view(-1, 1, 1, 1), loss=0.0)

    def kept(*answer: list) -> dict[int, int]:  # type: ignore[type-arg]
        return kept_images(pair(*answer), optimised, Stub(), puzzle)

    no, yes = [False] * 3, [True] * 3
    assert kept([2.0, 1.0, 0.5], no, no) == {}
    assert kept([2.0, 1.0, 0.5], yes, yes) == {0: 0, 1: 1, 2: 2}
    assert kept([2.0, 1.0, 0.5], no, yes) == {0: 0, 2: 2}  # 1.12 explains as much as noise allows
    assert kept([2.5, 1.0, 0.9], [False, False, True], [True, True, True]) == {1: 2, 0: 0, 2: 1}
    assert kept([-3.0, 1.0, 0.5], no, [True, False, False]) == {}  # worse than the optimised one


def test_uncertain_is_all_there_is_where_nothing_optimises() -> None:
    model, (images, labels) = vit(), mnist(1)
    observation = noised(observe(model, images, labels), 0.02)
    answer = attacks.create("cascade", iterations=5)(observation, ThreatModel(labels="unknown"), model)
    assert answer.details["stage"] == "patch_embedding"
    assert answer.details["certain"] == [False]
    assert "patch_embedding" not in answer.details["declined"]
    assert psnr(answer.images, images, MNIST_STD) > 10


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="iterations"):
        attacks.create("cascade", iterations=0)

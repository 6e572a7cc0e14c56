"""Every attack achieves an outcome: the table names each one, and what it must reach on a tiny problem."""

import doctest
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from attack_victims import observe, paper_mlp, psnr
from patch_victims import AprilViT, tiny_vit
from torch import Tensor, nn

import attacks
from attacks import NotApplicable, Observation, Reconstruction, ThreatModel
from attacks.labels import infer_labels


@dataclass(frozen=True)
class Outcome:
    """The lowest PSNR (dB) that the attack must reach, and the dropout rate at which it must.

    Args:
        model: maps the rate to the victim's model, for images of (1, 8, 8) and 4 classes.
        single: the attack declines batches above 1.
    """

    psnr: float
    dropout: float
    params: dict[str, Any] = field(default_factory=dict)
    model: Callable[[float], nn.Module] = lambda rate: paper_mlp(dropout=rate, inputs=64, width=64, classes=4)
    single: bool = False


TABLE = {
    "dlg": Outcome(psnr=30, dropout=0.0, params={"iterations": 300}),
    "idlg": Outcome(psnr=30, dropout=0.0, params={"iterations": 300}),
    "inverting_gradients": Outcome(psnr=30, dropout=0.0, params={"iterations": 600}),
    "sapag": Outcome(psnr=30, dropout=0.0, params={"iterations": 1000}),
    "tag": Outcome(psnr=30, dropout=0.0, params={"iterations": 1000}),
    "dropout_inversion": Outcome(psnr=30, dropout=0.5, params={"iterations": 1200}),
    "well_informed": Outcome(psnr=30, dropout=0.5, params={"iterations": 600}),
    "cut": Outcome(psnr=30, dropout=0.5, params={"iterations": 1000}, single=True),
    "patch_embedding": Outcome(psnr=100, dropout=0.5, model=tiny_vit, single=True),
    "sparse_dictionary": Outcome(
        psnr=100, dropout=0.5, model=lambda p: paper_mlp(dropout=p, inputs=64, width=64, classes=4, bias=True)
    ),
    "april": Outcome(psnr=60, dropout=0.5, model=lambda rate: AprilViT(rate=rate), single=True),
    "first_linear": Outcome(psnr=100, dropout=0.5, single=True),
    "mask_readout": Outcome(psnr=30, dropout=0.5, params={"iterations": 600}, single=True),
    "cascade": Outcome(psnr=30, dropout=0.5, params={"iterations": 1200}),
    "null_mean": Outcome(psnr=8, dropout=0.5),
    "null_random": Outcome(psnr=5, dropout=0.5),
}


def tiny(
    dropout: float, batch: int = 1, model_of: Callable[[float], nn.Module] = Outcome.model
) -> tuple[nn.Module, Tensor, Observation]:
    """An 8 x 8 victim of a small model; pixels in [0, 1], normalised with mean and deviation 0.5."""
    torch.manual_seed(3)
    model = model_of(dropout)
    images = torch.rand(batch, 1, 8, 8) * 2 - 1
    public = torch.rand(20, 1, 8, 8) * 2 - 1
    labels = torch.arange(batch) % 4
    return model, images, observe(model, images, labels, mean=(0.5,), std=(0.5,), classes=4, public=public)


def test_the_table_is_complete() -> None:
    assert attacks.names() == sorted(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_each_attack_achieves_its_outcome(name: str) -> None:
    expected = TABLE[name]
    model, images, observation = tiny(expected.dropout, model_of=expected.model)
    attack = attacks.create(name, **expected.params)
    threat_model = ThreatModel(**{"noise": "unknown", **attack.given})  # type: ignore[arg-type]
    result = attack(observation, threat_model, model)
    assert isinstance(result, Reconstruction)
    assert psnr(result.images, images, 0.5) >= expected.psnr
    assert result.iterations <= expected.params.get("iterations", 0)


@pytest.mark.parametrize("name", TABLE)
def test_each_attack_answers_a_whole_batch_or_declines_it(name: str) -> None:
    model, images, observation = tiny(0.25, batch=3, model_of=TABLE[name].model)
    attack = attacks.create(name, **({"iterations": 5} if "iterations" in TABLE[name].params else {}))
    threat_model = ThreatModel(**attack.given)  # type: ignore[arg-type]
    if TABLE[name].single:
        with pytest.raises(NotApplicable, match="batch"):
            attack(observation, threat_model, model)
        return
    result = attack(observation, threat_model, model)
    assert result.images.shape == images.shape
    assert result.images.min() >= -1
    assert result.images.max() <= 1


@pytest.mark.parametrize("name", TABLE)
def test_what_an_attack_ignores_changes_nothing_about_its_answer(name: str) -> None:
    expected = TABLE[name]
    model, _, observation = tiny(expected.dropout, model_of=expected.model)
    attack = attacks.create(name, **({"iterations": 5} if "iterations" in expected.params else {}))
    ignored = {*attack.ignores} - attack.uses()
    words = {"auxiliary_data": ("public", "none")}
    answers = []
    for granted in (True, False):
        grants = {aspect: words.get(aspect, ("known", "unknown"))[not granted] for aspect in ignored}
        held = {"labels": "labels", "noise": "noise", "auxiliary_data": "public", "batch_order": "order"}
        withheld = {held[aspect]: None for aspect in ignored if aspect in held and not granted}
        told = {"defense": ({"name": "clip", "norm": 1e-3},)} if "defense" in ignored and granted else {}
        threat_model = ThreatModel(**{**grants, **attack.given})  # type: ignore[arg-type]
        given = {field: value for field, value in withheld.items() if field != "public" or not attack.floor}
        answers.append(attack(replace(observation, **given, **told), threat_model, model))
    torch.testing.assert_close(answers[0].images, answers[1].images, rtol=0, atol=0, equal_nan=True)


def test_only_the_null_attacks_are_the_floor_and_only_wiig_is_an_oracle() -> None:
    assert {name for name in TABLE if attacks.get(name).floor} == {"null_mean", "null_random"}
    assert {name for name in TABLE if attacks.get(name).oracle} == {"well_informed"}


def test_the_null_attacks_answer_from_public_images_alone() -> None:
    model, _, observation = tiny(0.5)
    threat_model = ThreatModel(auxiliary_data="public")
    assert observation.public is not None
    mean = attacks.create("null_mean")(observation, threat_model, model)
    torch.testing.assert_close(mean.images[0], observation.public.mean(0))
    random = attacks.create("null_random")(observation, threat_model, model)
    assert any(torch.equal(random.images[0], image) for image in observation.public)
    assert math.isnan(mean.loss)
    object.__setattr__(observation, "public", None)
    assert not attacks.create("null_mean")(observation, threat_model, model).images.any()
    with pytest.raises(NotApplicable, match="no public images"):
        attacks.create("null_random")(observation, threat_model, model)
    with pytest.raises(NotApplicable, match="auxiliary_data public"):
        attacks.create("null_random")(observation, ThreatModel(), model)


@pytest.mark.parametrize("bias", [True, False])
def test_labels_of_single_images_are_read_exactly(bias: bool) -> None:
    for label in range(5):
        torch.manual_seed(label)
        model = paper_mlp(dropout=0.5, inputs=16, width=16, classes=5, bias=bias)
        observation = observe(model, torch.randn(1, 1, 4, 4), torch.tensor([label]), seed=label, classes=5)
        assert infer_labels(model, observation.update, batch_size=1, classes=5).labels.tolist() == [label]


def test_labels_of_a_batch_are_counted() -> None:
    torch.manual_seed(0)
    model = paper_mlp(dropout=0.0, inputs=16, width=16, classes=5, bias=True)
    labels = torch.tensor([0, 0, 3, 4, 4, 4])
    observation = observe(model, torch.randn(6, 1, 4, 4), labels, classes=5)
    assert infer_labels(model, observation.update, batch_size=6, classes=5).labels.tolist() == labels.tolist()
    without = {name: value for name, value in observation.update.items() if not name.endswith("bias")}
    with pytest.raises(NotApplicable, match="no bias"):
        infer_labels(model, without, batch_size=6, classes=5)


def test_an_attack_infers_its_labels() -> None:
    model, _, observation = tiny(0.5)
    expected = observation.labels
    object.__setattr__(observation, "labels", None)
    result = attacks.create("inverting_gradients", iterations=1)(observation, ThreatModel(labels="inferred"), model)
    assert torch.equal(result.labels, expected)


def test_the_example_of_the_package_runs() -> None:
    result = doctest.testmod(attacks)
    assert result.attempted > 5
    assert result.failed == 0

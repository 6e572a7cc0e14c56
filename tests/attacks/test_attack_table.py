"""Every attack achieves an outcome: the table constructs each one, and says what it must reach on a tiny problem."""

from __future__ import annotations

import copy
import doctest
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from attack_victims import observe, paper_mlp, psnr
from patch_victims import AprilViT, tiny_vit
from torch import Tensor, nn

import attacks
from attacks import Attack, LocalTraining, NotApplicable, Observation, Reconstruction, ThreatModel, standard_v1
from attacks.labels import infer_labels
from attacks.malicious import MaliciousAttack, Outset
from defenses import compose
from defenses.client.round import ClientRound, play
from defenses.registry import parameters
from defenses.stochastic import Dropout
from fedsim.scoring.matching import match


@dataclass(frozen=True)
class Target:
    """What a client does, what the attacker is granted, and what the attack must reach then.

    Args:
        attack: as a scenario would have it: its name, and options by their keys.
        psnr: the lowest (dB) that it must reach.
        dropout: the rate of the victim's model.
        defense: what the client does besides, as in a scenario.
        grants: the fields of the threat model that differ from its defaults.
        model: maps the rate to the victim's model, for images of (1, 8, 8) and 4 classes.
        batch: how many images it trains on.
        single: the attack declines batches above 1.
        part: it answers for some images of a batch alone.
        labelled: the label of the first image; those of the others follow.
        rounds: in how many rounds these images were seen.
        local: its local training, of which it sends the change of its weights; the order of epochs is not granted.
    """

    attack: Attack
    psnr: float
    dropout: float = 0.0
    defense: Mapping[str, Any] = field(default_factory=dict)
    grants: Mapping[str, str] = field(default_factory=dict)
    model: Callable[[float], nn.Module] = lambda rate: paper_mlp(dropout=rate, inputs=64, width=64, classes=4)
    batch: int = 1
    single: bool = False
    part: bool = False
    labelled: int = 0
    rounds: int = 1
    local: LocalTraining | None = None

    def __str__(self) -> str:
        defense = self.defense.get("name", "none")
        return " ".join([self.attack.name, defense, *(f"{key}={value}" for key, value in self.grants.items())])


def with_bias(rate: float) -> nn.Module:
    return paper_mlp(dropout=rate, inputs=64, width=64, classes=4, bias=True)


def convolutional(rate: float) -> nn.Module:
    """With two linear layers behind a convolution, and dropout between them."""
    first = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 64), nn.ReLU()]
    return nn.Sequential(*first, Dropout(rate), nn.Linear(64, 4))


def normalised(rate: float) -> nn.Module:
    """With batch norm, which has seen a batch."""
    first = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU(), Dropout(rate), nn.Flatten()]
    model = nn.Sequential(*first, nn.Linear(384, 4))
    model(torch.rand(16, 1, 8, 8) * 2 - 1)
    return model


a = attacks.create
KNOWN, INFERRED = {"defense": "known"}, {"labels": "inferred"}
MALICIOUS = {"server": "malicious", "auxiliary_data": "public"}
CLIPPED, PRUNED = {"name": "clip", "norm": 0.1}, {"name": "pruning", "keep": 0.3}
NOISY = {"name": "gaussian_noise", "std": 1e-4}
DESCENT = {
    "restarts": 2, "learning_rate": 0.05, "total_variation": 1e-6, "tolerance": 1e-6, "plateau": 150, "patience": 500
}  # fmt: skip
BEGUN = {"iterations": 40, "start": "first_linear", "draws": "anew", "compared": "all"}
"""From a closed form, with what is drawn anew and all that came back compared."""

LBFGS = DESCENT | {"learning_rate": 0.8}
"""Other values of what all attacks have that optimise."""
RETURNED = {"batch_norm": "batch"}
ROUGH = DESCENT | {"total_variation": 0.1}
MATCHING = DESCENT | {"gradient": 0.01, "norm": 1e-5, "batch_norm": 0.01, "group": 0.001}

EPOCHS = LocalTraining(epochs=2, learning_rate=0.01)
"""Of steps of one image, in an order of its own each."""

PRIOR = {"grants": {"auxiliary_data": "public"}, "dropout": 0.25}
GENERATED = {key: value for key, value in BEGUN.items() if key != "start"} | {"iterations": 200}


class Any8(nn.Module):
    """Makes any image of (1, 8, 8), of 64 numbers."""

    latent_shape = (64,)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64, bias=False)
        nn.init.orthogonal_(self.layer.weight, gain=2.0)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layer(latents).sigmoid().view(-1, 1, 8, 8)


torch.manual_seed(0)
ANY = Any8()

FISHING = {"grants": {"server": "malicious"}, "model": with_bias, "labelled": 1, "part": True}

ONE_CLASS = {"grants": MALICIOUS, "model": with_bias, "labelled": 1}

TABLE = [
    Target(a("dlg", iterations=300), 30),
    Target(a("dlg", iterations=300, memory=50, **LBFGS), 30, grants={"labels": "unknown"}),
    Target(a("dlg", **BEGUN), 30),
    Target(a("idlg", iterations=300), 30),
    Target(a("idlg", iterations=300, memory=50, **LBFGS), 30, grants=INFERRED, model=with_bias),
    Target(a("idlg", **BEGUN), 30),
    Target(a("cpl", iterations=300), 30),
    Target(
        a("cpl", iterations=300, memory=50, pattern=8, agreement=1e-3, **LBFGS), 30, grants=INFERRED, model=with_bias
    ),
    Target(a("cpl", **BEGUN), 30),
    Target(a("inverting_gradients", iterations=600), 30),
    Target(a("inverting_gradients", iterations=600, **DESCENT), 30, grants=INFERRED, model=with_bias),
    Target(a("inverting_gradients", iterations=600), 30, defense=CLIPPED),
    Target(a("inverting_gradients", iterations=600), 25, defense=PRUNED, grants=KNOWN),
    Target(a("inverting_gradients", **BEGUN), 30),
    Target(a("inverting_gradients", iterations=300, draws="anew", averaged=3), 12, dropout=0.2),
    Target(a("fedavg_inversion", iterations=300), 30),
    Target(a("fedavg_inversion", iterations=600), 30, dropout=0.5),
    Target(a("fedavg_inversion", iterations=300, agreement=0.01, memory=10, **DESCENT), 25, batch=2, local=EPOCHS),
    Target(a("fedavg_inversion", iterations=600, restarts=2, drop_rate=1e-3), 20, dropout=0.5, batch=2, local=EPOCHS),
    Target(a("fedavg_inversion", iterations=300, coupling="mean"), 25, batch=2, local=EPOCHS),
    Target(a("fedavg_inversion", **BEGUN), 30),
    Target(a("surrogate_model", iterations=300), 30),
    Target(a("surrogate_model", iterations=600), 30, dropout=0.5),
    Target(a("surrogate_model", iterations=300, memory=10, **DESCENT), 25, batch=2, local=EPOCHS),
    Target(a("surrogate_model", iterations=600, drop_rate=1e-3), 20, dropout=0.5, batch=2, local=EPOCHS),
    Target(a("surrogate_model", **BEGUN), 30),
    Target(a("sapag", iterations=1000), 30),
    Target(a("sapag", iterations=400, **DESCENT), 30),
    Target(a("sapag", **BEGUN), 30),
    Target(a("tag", iterations=600), 30),
    Target(a("tag", iterations=400, alpha=0.2, **DESCENT), 20),
    Target(a("tag", **BEGUN), 30),
    Target(a("gradinversion", iterations=400, restarts=2), 20, model=normalised, grants={"batch_norm": "batch"}),
    Target(a("gradinversion", iterations=300, **MATCHING), 20, model=normalised, grants={"batch_norm": "running"}),
    Target(
        a("gradinversion", **BEGUN | {"iterations": 400, "restarts": 2}),
        20,
        model=normalised,
        grants={"batch_norm": "batch"},
    ),
    Target(a("dropout_inversion", iterations=1000), 30, dropout=0.5),
    Target(a("dropout_inversion", iterations=600, drop_rate=1e-3, **DESCENT), 30, dropout=0.5),
    Target(a("dropout_inversion", iterations=400), 25, defense={"name": "mixup"}, grants=KNOWN, batch=2),
    Target(a("dropout_inversion", **BEGUN), 30, dropout=0.5),
    Target(a("dropout_inversion", iterations=200, masks="logistic", descent="lbfgs"), 30, dropout=0.5),
    Target(a("dropout_inversion", iterations=600, masks="annealed", **DESCENT), 25, dropout=0.5),
    Target(a("dropout_inversion", iterations=600, masks="straight_through", **DESCENT), 15, dropout=0.5),
    Target(a("deep_image_prior", iterations=300), 20, dropout=0.25),
    Target(a("deep_image_prior", iterations=100, channels=8, drop_rate=1e-3, **DESCENT), 15, dropout=0.25),
    Target(a("deep_image_prior", **GENERATED | {"iterations": 150}), 20),
    Target(a("ggl", decoder=ANY, iterations=300), 20, **PRIOR),
    Target(a("ggl", decoder=ANY, iterations=300, latent=1e-4, drop_rate=1e-3, **DESCENT), 20, **PRIOR),
    Target(a("ggl", decoder=ANY, **GENERATED), 20, **PRIOR),
    Target(a("gias", decoder=ANY, iterations=300), 25, **PRIOR),
    Target(
        a("gias", decoder=ANY, iterations=300, pace=0.02, latent_share=0.3, latent=1e-4, drop_rate=1e-3, **DESCENT),
        25,
        **PRIOR,
    ),
    Target(a("gias", decoder=ANY, **GENERATED), 20, **PRIOR),
    Target(a("well_informed", iterations=600), 30, dropout=0.5),
    Target(a("well_informed", iterations=300, **DESCENT), 30, dropout=0.5),
    Target(a("well_informed", **BEGUN), 30, dropout=0.5),
    Target(a("cut", iterations=1000), 30, dropout=0.5, single=True),
    Target(a("cut", iterations=500, drop_rate=1e-3, **DESCENT), 30, dropout=0.5, single=True),
    Target(a("cut", **BEGUN), 30, dropout=0.5, single=True),
    Target(a("patch_embedding"), 100, dropout=0.5, model=tiny_vit, single=True),
    Target(a("patch_embedding", ridge=1e-3), 12, defense=NOISY, model=tiny_vit, single=True),
    Target(a("sparse_dictionary"), 100, dropout=0.5, model=with_bias),
    Target(a("sparse_dictionary", starts=2), 100, dropout=0.5, defense=CLIPPED, model=with_bias, batch=4),
    Target(a("spear"), 100, dropout=0.5, model=with_bias),
    Target(a("spear", samples=50_000), 100, dropout=0.5, defense=CLIPPED, model=with_bias, batch=4),
    Target(a("fidel"), 100, dropout=0.5, model=with_bias),
    Target(a("multi_round"), 100, dropout=0.5, model=with_bias, batch=4, rounds=2),
    Target(a("multi_round", by="spear"), 100, dropout=0.5, model=with_bias, batch=4, rounds=3),
    Target(a("cocktail_party"), 100, dropout=0.5, model=with_bias),
    Target(a("cocktail_party", signal="pixels", independence=0.5, iterations=20), 100, model=with_bias),
    Target(a("april"), 60, dropout=0.5, model=lambda rate: AprilViT(rate=rate), single=True),
    Target(a("first_linear"), 100, dropout=0.5, single=True),
    Target(a("first_linear"), 100, dropout=0.5, defense=CLIPPED, single=True),
    Target(a("mask_readout", iterations=600), 30, dropout=0.5, single=True),
    Target(a("mask_readout", iterations=300, drop_rate=1e-3, **DESCENT), 30, dropout=0.5, single=True),
    Target(a("mask_readout", **BEGUN), 30, dropout=0.5, single=True),
    Target(a("multiscale_inversion", iterations=600), 30),
    Target(a("multiscale_inversion", iterations=600, drop_rate=1e-3, **ROUGH), 30, grants=INFERRED, model=with_bias),
    Target(a("multiscale_inversion", batch_norm=0.1, iterations=400), 25, grants=RETURNED, model=normalised),
    Target(a("multiscale_inversion", **BEGUN), 30),
    Target(a("standard_v1"), 60, dropout=0.5),
    Target(a("standard_v2"), 60, dropout=0.5),
    Target(a("cascade", iterations=1200), 30, dropout=0.5),
    Target(a("cascade", iterations=1200, restarts=2), 25, dropout=0.5, defense=PRUNED, grants=KNOWN),
    Target(a("imprint"), 100, dropout=0.5, grants=MALICIOUS),
    Target(a("imprint", bins=40, scale=0.5, gain=1.0), 100, dropout=0.5, defense=CLIPPED, grants=MALICIOUS, batch=3),
    Target(a("trap_weights"), 100, dropout=0.5, grants=MALICIOUS, model=with_bias),
    Target(a("trap_weights", share=0.1, gain=50.0), 100, grants=MALICIOUS, model=with_bias, batch=3),
    Target(a("ares", iterations=300), 35, dropout=0.5, grants=MALICIOUS, model=convolutional, batch=3, part=True),
    Target(
        a("ares", share=0.2, gain=100.0, iterations=100, total_variation=1e-6),
        100,
        dropout=0.5,
        grants=MALICIOUS,
        model=with_bias,
        part=True,
    ),
    Target(a("fishing"), 100, dropout=0.5, grants={"server": "malicious"}, model=with_bias, part=True),
    Target(a("fishing", then="first_linear", target=1), 100, dropout=0.5, **FISHING),
    Target(a("fishing", then="inverting_gradients", iterations=600, margin=50.0, target=1), 30, **FISHING),
    Target(a("feature_fishing", target=1, share=0.95, margin=100.0), 100, single=True, **ONE_CLASS),
    Target(a("feature_fishing", then="dlg", target=1, share=0.95, iterations=200), 30, single=True, **ONE_CLASS),
    Target(a("null_mean"), 8, dropout=0.5),
    Target(a("null_random"), 5, dropout=0.5),
]
"""An attack has a line for each kind of setting in which it must reach something; together they try all its options."""


def seen(target: Target, batch: int) -> tuple[nn.Module, Tensor, ThreatModel, Observation]:
    """A model, images of its client (1, 8, 8) with mean and deviation 0.5, and what the server sees of them."""
    torch.manual_seed(3)
    model = target.model(target.dropout)
    images = torch.rand(batch, 1, 8, 8) * 2 - 1
    public = torch.rand(20, 1, 8, 8) * 2 - 1
    labels = (target.labelled + torch.arange(batch)) % 4
    if isinstance(target.attack, MaliciousAttack):
        model = target.attack.on_model(model, input_shape=(1, 8, 8))
        outset = Outset(input_shape=(1, 8, 8), classes=4, mean=(0.5,), std=(0.5,), public=public)
        target.attack.change(model, outset, seed=0)
    specs = [target.defense] if target.defense else []
    fields = {"mean": (0.5,), "std": (0.5,), "classes": 4, "public": public, "defense": tuple(specs)}
    observation = observe(model, images, labels, **fields)
    earlier = [observe(model, images, labels, seed=number, **fields) for number in range(1, target.rounds)]
    observation = replace(observation, earlier=tuple(earlier))
    client = ClientRound(model=copy.deepcopy(model), defense=compose(specs), batch_size=batch, classes=4)
    if target.local:
        client = replace(client, local=target.local, share="delta", batch_size=1)
        trained = {"local": target.local, "kind": "delta", "batch_size": 1, "examples": batch}
        observation = replace(observation, **trained)
    if specs or target.local:
        played = play(client, dict(observation.state), images, labels, _generator)
        observation = replace(observation, update=played.update, noise=played.drawn)
    threat_model = ThreatModel(**{**target.grants, **target.attack.given})  # type: ignore[arg-type]
    return model, images, threat_model, as_granted(observation, threat_model)


def _generator(site: str, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{site} {step}".encode()))


def as_granted(observation: Observation, threat_model: ThreatModel) -> Observation:
    """Without what the threat model does not grant."""
    fields = {
        "labels": threat_model.labels == "known",
        "noise": threat_model.noise == "known",
        "defense": threat_model.defense == "known",
        "public": threat_model.auxiliary_data == "public",
    }
    return replace(observation, **{name: None for name, granted in fields.items() if not granted})


def test_the_table_is_complete() -> None:
    assert attacks.names() == sorted({target.attack.name for target in TABLE})


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no parameters is as short as the others here."""
    monkeypatch.setattr(standard_v1, "LONGEST", 50)



@pytest.mark.parametrize("name", attacks.names())
def test_every_option_is_tried(name: str) -> None:
    """With another value than its default, and so that the attack reaches something with it."""
    untried = [
        key
        for key, parameter in parameters(attacks.get(name)).items()
        if not {getattr(target.attack, key) for target in TABLE if target.attack.name == name} - {parameter.default}
    ]
    assert not untried, f"TABLE has no {name} with another {' nor another '.join(untried)} than the default"


@pytest.mark.parametrize("target", TABLE, ids=str)
def test_each_attack_achieves_its_outcome(target: Target) -> None:
    model, images, threat_model, observation = seen(target, target.batch)
    result = target.attack(observation, threat_model, model)
    assert isinstance(result, Reconstruction)
    order = match(images, result.images)
    assert None not in order
    assert psnr(result.images[order], images, 0.5) >= target.psnr
    assert result.iterations <= getattr(target.attack, "iterations", 0)


@pytest.mark.parametrize("target", TABLE, ids=str)
def test_each_attack_answers_a_whole_batch_or_declines_it(target: Target) -> None:
    model, images, threat_model, observation = seen(replace(target, dropout=0.25), batch=3)
    attack = copy.copy(target.attack)
    if hasattr(attack, "iterations"):
        attack.iterations = 5
    if target.single:
        with pytest.raises(NotApplicable, match="batch"):
            attack(observation, threat_model, model)
        return
    result = attack(observation, threat_model, model)
    assert result.images.shape[1:] == images.shape[1:]
    assert len(result.images) == len(images) or (target.part and len(result.images) < len(images))
    assert result.images.min() >= -1
    assert result.images.max() <= 1


def test_only_the_null_attacks_are_the_floor_and_only_wiig_is_an_oracle() -> None:
    assert {name for name in attacks.names() if attacks.get(name).floor} == {"null_mean", "null_random"}
    assert {name for name in attacks.names() if attacks.get(name).oracle} == {"well_informed"}


def test_the_null_attacks_answer_from_public_images_alone() -> None:
    model, _, _, observation = seen(Target(attacks.create("null_mean"), 0, dropout=0.5), batch=1)
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
    guessed = infer_labels(model, without, batch_size=6, classes=5, input_shape=(1, 4, 4))
    assert len(guessed.labels) == 6
    assert guessed.method == "geng"


def test_an_attack_infers_its_labels() -> None:
    target = Target(attacks.create("inverting_gradients", iterations=1), 0, dropout=0.5, grants={"labels": "inferred"})
    model, _, threat_model, observation = seen(target, batch=1)
    assert observation.labels is None
    assert target.attack(observation, threat_model, model).labels.tolist() == [0]


def test_the_example_of_the_package_runs() -> None:
    result = doctest.testmod(attacks)
    assert result.attempted > 5
    assert result.failed == 0

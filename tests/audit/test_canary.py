"""A user's client app on known images: what it sent is what a replay of what was seen gives, to float32, or it is said
in one line why not."""

from __future__ import annotations

import os
import random
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from client_apps import MEAN, STD, a_message, model_of, photographs, written
from client_variants import EARLIER, VARIANTS, Variant, changed, optimizer
from torch import Tensor
from torch.nn.functional import one_hot

from fedsim.audit import canary, canary_process
from fedsim.audit.canary import Canary, NoCanary, play
from fedsim.audit.facts import GroupSeen
from fedsim.audit.replaying import replayed
from fedsim.errors import BadInput
from fedsim.models import foreign
from fedsim.recording import Recorded

PLAIN = Variant()


def a_canary(folder: Path, variant: Variant = PLAIN, timeout: float = 120) -> tuple[Canary, torch.nn.Module]:
    app = written(
        folder / "app",
        model=variant.model,
        data=variant.data,
        train=variant.train,
        client=variant.client,
        project=variant.project,
    )
    model = foreign.taking(model_of(app), variant.output)
    pixels, labels = photographs(variant.images)
    sent = a_message(model)
    size = variant.batch_size
    return play(app, sent, pixels, labels, mean=MEAN, std=STD, batch_size=size, timeout=timeout), model


def _places(module: ModuleType) -> list[str]:
    """Where it was loaded from: a package without a file of its own has folders alone."""
    named = vars(module)
    found = [named.get("__file__"), *named.get("__path__", ())]
    return [place for place in found if isinstance(place, str)]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The process is a copy of this one, which spares it the imports; apps of other tests are forgotten in it."""
    temporary = tmp_path_factory.getbasetemp().resolve()

    def run(folder: Path, app: Path, timeout: float) -> None:
        child = os.fork()
        if not child:
            for name, module in list(sys.modules.items()):
                if any(Path(place).is_relative_to(temporary) for place in _places(module)):
                    del sys.modules[name]
            os.chdir(app)
            canary_process.main(folder)
            os._exit(0)
        os.waitpid(child, 0)

    monkeypatch.setattr(canary, "_run", run)


def test_a_client_is_replayed(tmp_path: Path) -> None:
    found, model = a_canary(tmp_path)
    assert [len(step) for step in found.order] == [4, 4, 2]
    assert sorted(index for step in found.order for index in step) == list(range(10))
    facts = found.facts
    assert (facts.optimizer, facts.lr, facts.momentum, facts.steps) == ("torch.optim.SGD", 0.05, 0.9, 3)
    assert (facts.mode, facts.frozen, facts.dtype) == ("train", (), "float32")
    assert facts.dropout == {"drop": 0.25, "functional_dropout_0": 0.5}
    assert found.recorded.metrics["num-examples"] == 10
    assert not facts.unexplained
    assert not facts.notes
    assert found.noise["drop"].shape == (10, 6, 6, 6)
    outcome = replayed(found, model)
    assert outcome.why is None
    assert outcome.error <= outcome.tolerance < 1e-4


def test_nothing_is_drawn_from_who_asks(tmp_path: Path) -> None:
    app = written(tmp_path / "app")
    model, (pixels, labels) = model_of(app), photographs(4)
    before = random.getstate(), torch.get_rng_state()
    weights = [value.clone() for value in model.state_dict().values()]
    found = play(app, a_message(model), pixels, labels, mean=MEAN, std=STD)
    assert replayed(found, model).why is None
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert all(torch.equal(one, other) for one, other in zip(weights, model.state_dict().values(), strict=True))
    assert model.training
    assert not any("functional" in name for name, _ in model.named_modules())


@pytest.mark.usefixtures("forked")
def test_arrays_that_have_numbers_for_names(tmp_path: Path) -> None:
    """What is frozen, and what is trained apart, is named as the model names it."""
    variant = Variant(
        client=EARLIER,
        train=changed(
            optimizer(
                'torch.optim.SGD([{"params": net.fc1.parameters()}, {"params": net.fc2.parameters(), "lr": 1}], lr)'
            ),
            ("net.train()", "net.train(); net.conv.requires_grad_(False)"),
        ),
    )
    app = written(tmp_path / "app", train=variant.train, client=variant.client)
    model = model_of(app)
    named = a_message(model)
    sent = replace(named, sent={str(place): value for place, value in enumerate(named.sent.values())})
    found = play(app, sent, *photographs(6), mean=MEAN, std=STD)
    assert found.facts.frozen == ("conv.weight", "conv.bias")
    assert [group.parameters for group in found.facts.groups] == [("fc2.weight", "fc2.bias")]
    assert replayed(found, model).why is None


@pytest.mark.usefixtures("forked")
def test_a_replay_with_one_fact_wrong_is_told_from_the_client(tmp_path: Path) -> None:
    found, model = a_canary(tmp_path)
    facts = found.facts
    wrong = {
        "momentum": replace(found, facts=replace(facts, options={**facts.options, "momentum": 0.8})),
        "decay": replace(found, facts=replace(facts, options={**facts.options, "weight_decay": 1e-3})),
        "rate": replace(found, facts=replace(facts, learning_rates=(0.0501,) * 3)),
        "schedule": replace(found, facts=replace(facts, learning_rates=(0.05, 0.05, 0.0501))),
        "group": replace(
            found,
            facts=replace(
                facts,
                groups=(GroupSeen(parameters=("fc2.bias",), options=facts.options, learning_rates=(0.06,) * 3),),
            ),
        ),
        "order": replace(found, order=(found.order[1], found.order[0], found.order[2])),
        "labels": replace(found, labels=found.labels.roll(1)),
        "mask": replace(found, noise={**found.noise, "drop": found.noise["drop"].flip(0)}),
        "mean": replace(found, mean=(0.5, 0.4, 0.31)),
    }
    for what, canary_of in wrong.items():
        outcome = replayed(canary_of, model)
        assert outcome.why is not None, what
        assert outcome.error > outcome.tolerance, what


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if not variant.alone])
@pytest.mark.usefixtures("forked")
def test_a_client_as_people_write_them(name: str, tmp_path: Path) -> None:
    holds(VARIANTS[name], tmp_path)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.alone])
def test_a_client_that_does_not_end_well(name: str, tmp_path: Path) -> None:
    holds(VARIANTS[name], tmp_path, timeout=20)


def holds(variant: Variant, folder: Path, timeout: float = 120) -> None:
    if variant.refused:
        with pytest.raises(NoCanary, match=variant.refused) as refusal:
            a_canary(folder, variant, timeout)
        assert "\n" not in str(refusal.value)
        assert "Traceback" not in str(refusal.value)
        return
    found, model = a_canary(folder, variant, timeout)
    for fact, value in variant.facts.items():
        assert getattr(found.facts, fact) == value
    assert not variant.notes or any(variant.notes in note for note in found.facts.notes)
    outcome = replayed(found, model)
    if variant.why:
        assert re.search(variant.why, outcome.why or "it was replayed"), outcome
        assert "\n" not in str(outcome.why)
    else:
        assert outcome.why is None, outcome
        assert outcome.error <= outcome.tolerance < 1e-3


@pytest.mark.usefixtures("forked")
def test_the_same_seed_gives_the_same_round_and_another_another(tmp_path: Path) -> None:
    app = written(tmp_path / "app")
    sent, (pixels, labels) = a_message(model_of(app)), photographs(6)
    one, same, other = (play(app, sent, pixels, labels, mean=MEAN, std=STD, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(value, same.recorded.received[name]) for name, value in one.recorded.received.items())
    assert one.order == same.order != other.order


@pytest.mark.usefixtures("forked")
def test_arrays_without_names_are_those_of_the_model_in_order(tmp_path: Path) -> None:
    variant = VARIANTS["the earlier api"]
    app = written(tmp_path / "app", client=variant.client)
    model, (pixels, labels) = model_of(app), photographs(6)
    listed = {str(number): value for number, value in enumerate(model.state_dict().values())}
    found = play(app, Recorded(1, "0", listed, listed, {}, {"lr": 0.05}), pixels, labels, mean=MEAN, std=STD)
    assert list(found.recorded.received) == list(listed)
    outcome = replayed(found, model)
    assert outcome.why is None
    assert outcome.error <= outcome.tolerance


@pytest.mark.usefixtures("forked")
def test_a_loss_that_is_told_is_replayed(tmp_path: Path) -> None:
    found, model = a_canary(tmp_path, VARIANTS["squared error"])

    def squared(logits: Tensor, labels: Tensor) -> Tensor:
        return (logits - one_hot(labels, 10)).square().mean()

    outcome = replayed(found, model, squared)
    assert outcome.why is None
    assert outcome.error <= outcome.tolerance < 1e-4
    halved = replayed(found, model, lambda logits, labels: squared(logits, labels) / 2)
    assert "is 2 times that of the mean loss" in str(halved.why)


def test_what_cannot_be_a_canary_is_refused_before_anything_runs(tmp_path: Path) -> None:
    app = written(tmp_path / "app")
    sent, (pixels, labels) = a_message(model_of(app)), photographs(4)
    wrong = {
        "two of the canary's images are alike": {"images": pixels[[0, 1, 1, 2]]},
        "they must be uint8": {"images": pixels.float()},
        "one class index each": {"labels": labels[:2]},
        "for each of 3 channels": {"mean": (0.5,)},
        "'batch' is no key of .*pyproject.toml; it has batch-size, epochs": {"run_config": {"batch": 3}},
        "no pyproject.toml": {"app": tmp_path},
    }
    for said, changes in wrong.items():
        given = {"app": app, "recorded": sent, "images": pixels, "labels": labels, "mean": MEAN, "std": STD, **changes}
        with pytest.raises(BadInput, match=said):
            play(**given)  # type: ignore[arg-type]

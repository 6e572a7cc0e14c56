"""What holds of every relative of dropout: how it draws, that it rests, who is told what, and what it composes with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import relatives
import torch
from told_attacks import observed, run

import attacks
import defenses
from attacks import ThreatModel
from attacks.twin import attacker_copy
from defenses.client.round import ClientRound, replay
from defenses.client.site import STEP
from defenses.stochastic import Inexplicit, begin, check_explicit, convert, stochastic_layers
from fedsim.models import build, effective_dropout
from fedsim.runs.attack import Task, respond
from fedsim.scenario.schema import Engine


@dataclass
class Case:
    """
    Args:
        model: one that has the place.
        mean, variance: of what one draw multiplies by, entry by entry.
        values: whether all entries are 0 or 1.
        read: whether the update of one image gives the draw away.
        once: whether a composition refuses a second one.
        rests: whether its rate may be 0.
        replaces: whether it takes the place of layers, which another that does so refuses.
    """

    parameters: dict[str, object]
    model: str
    mean: float
    variance: float
    binary: bool = True
    read: bool = False
    once: bool = False
    rests: bool = True
    replaces: bool = False


NESTED = sum(0.9**unit for unit in range(16)) / 16
KEPT = relatives.dropblock_mean(0.3, 2)

CASES = {
    "spatial_dropout": Case({"p": 0.3}, "lenet", 0.7, 0.21, read=True),
    "gaussian_dropout": Case({"p": 0.3}, "mlp", 1.0, 0.3 / 0.7, binary=False),
    "dropblock": Case({"p": 0.3, "block": 2}, "lenet", KEPT, KEPT * (1 - KEPT)),
    "layerdrop": Case({"p": 0.4}, "vit", 0.6, 0.24, read=True),
    "attention_drop": Case({"p": 0.3}, "vit", 0.7, 0.21),
    "token_dropout": Case({"p": 0.3}, "vit", 11 / 16, 55 / 256, read=True),
    "scheduled_dropout": Case({"p": 0.3, "until": 2}, "mlp", 0.7, 0.21, read=True),
    "concrete_dropout": Case({"p": 0.3}, "mlp", 0.5, 1 / 12, binary=False, once=True, rests=False),
    "lora_dropout": Case({"p": 0.3, "rank": 16}, "mlp", 0.7, 0.21, once=True),
    "nested_dropout": Case({"p": 0.1}, "mlp", NESTED, NESTED * (1 - NESTED), read=True),
    "mixout": Case({"p": 0.3}, "mlp", 0.7, 0.21, read=True, replaces=True),
    "multi_sample_dropout": Case({"p": 0.3, "samples": 4}, "mlp", 0.7, 0.21, once=True),
}
names = pytest.mark.parametrize("name", CASES)


def defended(name: str, **more: object) -> tuple[defenses.Defense, torch.nn.Module]:
    defense = defenses.create(name, **CASES[name].parameters, **more)
    return defense, defense.on_model(relatives.model(CASES[name].model))


def added(model: torch.nn.Module) -> dict[str, object]:
    return {path: layer for path, layer in stochastic_layers(model).items() if layer.added}


@names
def test_it_draws_by_its_law(name: str) -> None:
    """Mean and variance of what a client draws, at 5 standard errors."""
    defense, model = defended(name)
    images, labels = relatives.batch()
    drawn = []
    for seed in range(100):
        played = relatives.step(defense, model, images, labels, seed=seed)
        assert all(value.dtype == torch.float64 for value in played.drawn.values())
        drawn.append(torch.cat([value.flatten() for value in played.drawn.values()]))
    again = relatives.step(defense, model, images, labels, seed=99)
    assert torch.equal(torch.cat([value.flatten() for value in again.drawn.values()]), drawn[-1])
    case = CASES[name]
    assert set(torch.cat(drawn).unique().tolist()) == {0.0, 1.0} or not case.binary
    assert len({tuple(value.tolist()) for value in drawn}) > 3
    for found, expected in (
        (torch.stack([value.mean() for value in drawn]), case.mean),
        (torch.stack([(value - case.mean).square().mean() for value in drawn]), case.variance),
    ):
        assert abs(float(found.mean()) - expected) < 5 * float(found.std()) / len(drawn) ** 0.5 + 1e-12


@names
def test_it_rests_in_evaluation_mode_and_at_rate_zero(name: str) -> None:
    _, model = defended(name)
    plain = relatives.model(CASES[name].model)
    images, labels = relatives.batch()
    names_before = list(plain.state_dict())
    assert [entry for entry in model.state_dict() if entry in names_before] == names_before
    assert torch.equal(model.eval()(images), plain.eval()(images))
    assert effective_dropout(model) == 0
    if not CASES[name].rests:
        return
    idle = defenses.create(name, **{**CASES[name].parameters, "p": 0.0})
    still = idle.on_model(relatives.model(CASES[name].model))
    assert not relatives.step(idle, still, images, labels).drawn


@names
def test_each_example_meets_its_own_draw_only(name: str) -> None:
    """So that the update of a batch is the mean of the updates of its images at their draws."""
    defense, model = defended(name)
    images, labels = relatives.batch()
    played = relatives.step(defense, model, images, labels)
    state = {entry: value for entry, value in model.named_parameters() if value.requires_grad}
    twin = attacker_copy(model, model.state_dict())
    each = []
    for i in range(len(images)):
        own = {
            path: value if played.sites[path].axes == STEP else value[i : i + 1]
            for path, value in played.drawn.items()
        }
        round = ClientRound(model=twin, defense=defense, classes=relatives.CLASSES)
        each.append(replay(round, state, images[i : i + 1], labels[i : i + 1], own).update)
    mean = {entry: torch.stack([one[entry] for one in each]).mean(0) for entry in each[0]}
    relatives.assert_same(mean, played.update)


def victim(specs: list[dict], model: str, *, batch: int = 1):
    """The attacker's model, what it sees of a client with all grants, and its images in [0, 1]."""
    spec = {"name": model, "dropout": 0.0, "defenses": specs, **relatives.KEYS[model]}
    make = lambda: build(spec, input_shape=(1, 8, 8), classes=4, seed=0)  # noqa: E731
    composed, own = defenses.compose(specs), make()
    images = torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch) % 4
    each = (relatives.step(composed, own, images, labels, seed=seed) for seed in range(20))
    played = next(one for one in each if any((value != 1).any() for value in one.drawn.values()))
    seen = observed(make().state_dict(), played, labels, specs)
    return make(), seen, images


@names
def test_who_is_told_what_was_drawn_rebuilds(name: str) -> None:
    """Better than who knows the defense and puts nothing in the place of its noise; inversion looks for it."""
    case = CASES[name]
    twin, seen, images = victim([{"name": name, **case.parameters}], case.model)
    oracle, blind = (run(attack, twin, seen, iterations=60) for attack in ("well_informed", "inverting_gradients"))
    told, still = (float((found.images - images).square().mean()) for found in (oracle, blind))
    assert oracle.loss < blind.loss / 3
    assert told < still
    sought = run("dropout_inversion", twin, seen, iterations=3)
    assert sought.noise.keys() == seen.noise.keys()
    assert all(sought.noise[path].shape == value.shape for path, value in seen.noise.items())


def test_a_place_that_nothing_passes_is_refused_by_name() -> None:
    model = defenses.create("attention_drop").on_model(convert(relatives.Fused()))
    with pytest.raises(Inexplicit, match=r"'attn_drop.attention_drop' \(AttentionDropout\) .* nothing passes there"):
        check_explicit(model, torch.ones(2, 4))
    check_explicit(defenses.create("attention_drop", p=0.0).on_model(convert(relatives.Fused())), torch.ones(2, 4))


@pytest.mark.parametrize(
    ("defense", "attribute"),
    [
        ("attention_drop", "attention_weights"),
        ("token_dropout", "tokens"),
        ("layerdrop", "residual_branches"),
        ("smoe_dropout", "expert_layers"),
    ],
)
def test_a_named_place_that_is_not_there_is_refused(defense: str, attribute: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    named = {"residual_branches": ("mising",), "expert_layers": ("mising", "0")}
    setattr(model, attribute, named.get(attribute, "mising"))
    with pytest.raises(ValueError, match=r"^Sequential names 'mising' as a place .* no such module$"):
        defenses.create(defense).on_model(model)
    setattr(model, attribute, () if attribute in named else torch.ones(1))  # something of another meaning
    with pytest.raises(ValueError, match=f"^{defense}: Sequential has no "):
        defenses.create(defense).on_model(model)


def test_an_attack_job_knows_which_round_it_is() -> None:
    """The model of a later round draws, as its client did; told what, it finds the places."""
    specs = [{"name": "scheduled_dropout", "p": 0.4, "when": "late", "until": 1}]
    spec = {"name": "mlp", "dropout": 0.0, "defenses": specs, **relatives.KEYS["mlp"]}
    own = begin(build(spec, input_shape=(1, 8, 8), classes=4, seed=0), 2)
    _, seen, images = victim([{"name": "scheduled_dropout", "p": 0.4}], "mlp")
    played = relatives.step(defenses.compose(specs), own, images, torch.tensor([0]))
    assert len(played.drawn) == 3
    second = replace(seen, state=own.state_dict(), update=played.update, noise=played.drawn, round=2)
    task = Task(
        attack={"name": "well_informed", "iterations": 2},
        engine=Engine(device="cpu", compile="never"),
        seed=0,
        threat_model=ThreatModel(defense="known", noise="known"),
        model=spec,
        observations=[replace(second, defense=tuple(specs))],
    )
    [client] = respond(task).account.outcomes.values()
    assert client.status == "ok", client


def test_few_depths_are_tried_and_the_right_one_is_found() -> None:
    """Two blocks have four states."""
    twin, seen, _ = victim([{"name": "layerdrop", "p": 0.4}], "vit")
    found = run("dropout_inversion", twin, seen, iterations=60)
    bits = {path: float(value) for path, value in seen.noise.items()}
    assert {path: float(value) for path, value in found.noise.items()} == bits
    assert 0.0 in bits.values()


@names
def test_what_the_update_gives_away_is_read(name: str) -> None:
    case = CASES[name]
    twin, seen, _ = victim([{"name": name, **case.parameters}], case.model)
    if not case.read:
        [found] = attacks.create("mask_readout").run([seen], ThreatModel(defense="known"), twin)
        assert "no mask can be read" in str(found)
        return
    found = run("mask_readout", twin, seen, iterations=1)
    assert set(found.details["masks_read"]) == seen.noise.keys()
    assert all(torch.equal(found.noise[path], value) for path, value in seen.noise.items())


@names
@pytest.mark.parametrize("attack", ["first_linear", "patch_embedding", "sparse_dictionary"])
def test_no_closed_form_is_certain_of_a_wrong_image(name: str, attack: str) -> None:
    case = CASES[name]
    twin, seen, images = victim([{"name": name, **case.parameters}], case.model)
    [found] = attacks.create(attack).run([seen], ThreatModel(defense="known"), twin)
    if isinstance(found, attacks.Reconstruction) and found.details["certain"] == [True]:
        assert float((found.images - images).square().mean()) < 1e-10


OTHERS = [
    [{"name": "dropout", "p": 0.3}],
    [{"name": "dropconnect", "p": 0.3}],
    [{"name": "clip", "norm": 0.1}, {"name": "pruning", "keep": 0.5}],
    [{"name": "dp_sgd", "max_grad_norm": 0.1}],
    [{"name": "mixup"}],
]


@names
@pytest.mark.parametrize("others", OTHERS, ids=lambda parts: parts[0]["name"])
def test_it_composes_in_either_order_and_with_itself(name: str, others: list[dict]) -> None:
    """The law: what was played, replayed with what was drawn."""
    case = CASES[name]
    own = {"name": name, **case.parameters}
    if case.once:
        with pytest.raises(ValueError, match=rf"^{name}: .* already"):
            defenses.compose([own, own]).on_model(relatives.model(case.model))
    if case.replaces:
        for specs in ([own, own], [own, {"name": "dropconnect"}], [{"name": "dropconnect"}, own]):
            with pytest.raises(ValueError, match=r"has no nn\.Linear or nn\.Conv2d$"):
                defenses.compose(specs).on_model(relatives.model(case.model))
    if case.replaces and others[0]["name"] == "dropconnect":
        return
    for specs in ([own, *others], [*others, own], *([] if case.once or case.replaces else [[own, own]])):
        composed = defenses.compose(specs)
        model = composed.on_model(relatives.model(case.model, dropout=0.3))
        images, labels = relatives.batch()
        played = relatives.step(composed, model, images, labels)
        assert case.replaces or added(model)
        assert added(model).keys() <= played.drawn.keys()
        twin = attacker_copy(model, model.state_dict())
        round = ClientRound(model=twin, defense=composed, classes=relatives.CLASSES)
        trained = {entry: value for entry, value in model.named_parameters() if value.requires_grad}
        again = replay(round, trained, images, labels, played.drawn)
        relatives.assert_same(again.update, played.update)

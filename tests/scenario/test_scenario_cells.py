"""A valid scenario: its cells, what is equal work, and the files that travel with the package."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

import attacks
import defenses
from attacks import ThreatModel
from fedsim import data, models
from fedsim.errors import BadInput
from fedsim.scenario import METRICS, bundled, every_cell, json_schema, load, only, parse
from fedsim.scenario.work import Work
from fedsim.scoring.metrics import METRICS as SCORED

SMALL = {"name": "small", "data": "mnist", "model": {"name": "mlp", "width": 8}, "attacks": ["inverting_gradients"]}


def _small(**keys):
    return parse({**SMALL, **keys}, rehearsed=False)


def test_axes_nest_sweep_then_seed_then_defense():
    scenario = _small(
        seeds=[0, 7],
        defenses=["none", {"name": "dropout", "p": 0.5}],
        sweep={"model.width": [8, 16], "data.test_fraction": [0]},
    )
    cells = every_cell(scenario)
    assert [(c.scenario.model.spec()["width"], c.seed, c.defense_label) for c in cells] == [
        (width, seed, defense) for width in (8, 16) for seed in (0, 7) for defense in ("none", "dropout(p=0.5)")
    ]
    assert cells[-1].sweep == {"model.width": 16, "data.test_fraction": 0}
    assert cells[-1].scenario.data.test_fraction == 0
    assert all(cell.scenario.sweep == {} for cell in cells)


def test_a_sweep_may_change_the_kind_of_a_block():
    scenario = _small(
        model="mlp", sweep={"model": ["lenet", {"name": "mlp", "depth": 1}], "data.name": ["mnist", "photos"]}
    )
    assert [(c.scenario.model.name, c.scenario.data.name) for c in every_cell(scenario)] == [
        ("lenet", "mnist"), ("lenet", "photos"), ("mlp", "mnist"), ("mlp", "photos"),
    ]  # fmt: skip


def test_labels_give_the_parameters_that_were_given():
    composition = [{"name": "clip", "norm": 1}, {"name": "gaussian_noise", "std": 1e-3}]
    cells = every_cell(_small(defenses=["none", "dropout", {"name": "dropout", "p": 0.5}, composition]))
    assert [cell.defense_label for cell in cells] == [
        "none", "dropout", "dropout(p=0.5)", "clip(norm=1.0) + gaussian_noise(std=0.001)",
    ]  # fmt: skip
    assert cells[3].defense == ({"name": "clip", "norm": 1.0}, {"name": "gaussian_noise", "std": 0.001})


def test_equal_work_is_equal_whatever_it_is_called():
    rate = {"name": "mlp", "width": 8, "dropout": 0.5}
    none, named, given, zero = every_cell(_small(
        defenses=["none", "dropout", {"name": "dropout", "p": 0.5}, {"name": "dropout", "p": 0.0}]
    ))
    assert named.work() == given.work() == every_cell(_small(model=rate))[0].work()
    assert none.work() == zero.work() != named.work()
    assert named.model_spec()["dropout"] == 0.5
    assert named.working_defense() == ()
    clipped = every_cell(_small(defenses=[["none", {"name": "clip", "norm": 1.0}]]))[0]
    assert clipped.working_defense() == ({"name": "clip", "norm": 1.0},)


def test_work_leaves_out_what_cannot_change_it():
    one = every_cell(_small())[0].work()
    other = _small(
        attacks=[], metrics=["mse"], description="x", name="y", engine={"chunk": 2}, threat_model={"labels": "unknown"}
    )
    assert every_cell(other)[0].work() == one
    assert Work.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    for change in (
        {"seeds": [1]},
        {"federation": {"rounds": 2}},
        {"victims": {"clients": 2}},
        {"utility": {"rounds": 1}},
    ):
        assert every_cell(_small(**change))[0].work() != one, change


def test_the_content_of_own_files_is_part_of_the_work(tmp_path):
    def work(pixel: int):
        images = np.full((20, 8, 8), pixel, dtype=np.uint8)
        np.savez(tmp_path / "own.npz", x=images, y=np.arange(20) % 2)
        data.sources._load.cache_clear()
        return every_cell(_small(data={"name": "npz", "path": str(tmp_path / "own.npz")}))[0].work()

    assert work(3) == work(3) != work(4)


def test_a_scenario_is_immutable_and_survives_the_trip_through_json():
    scenario = _small(defenses=["none", ["dropout", "clip"]], model={"name": "mlp", "bias": False})
    with pytest.raises(ValidationError, match="frozen"):
        scenario.name = "other"
    again = parse(json.loads(json.dumps(scenario.to_dict())), rehearsed=False)
    assert again.to_dict() == scenario.to_dict()
    assert again.digest() == scenario.digest() != _small().digest()


def test_a_sweep_over_models_survives_the_trip_too():
    scenario = _small(model={"name": "mlp", "dropout": 0.5}, sweep={"model.name": ["mlp", "lenet"]})
    again = parse(json.loads(json.dumps(scenario.to_dict())), rehearsed=False)
    assert [cell.work() for cell in every_cell(again)] == [cell.work() for cell in every_cell(scenario)]


SETTINGS = [{"model": "lenet", "attacks": ["cut"]}, {"model.width": 4, "defenses": ["clip", "dropout"]}]


def test_settings_say_what_differs_there_and_the_sweep_is_run_in_each():
    scenario = _small(settings=SETTINGS, sweep={"data.test_fraction": [0, 0.5]}, seeds=[3])
    described = [
        (
            cell.scenario.model.name,
            cell.defense_label,
            [attack.name for attack in cell.scenario.attacks],
            cell.scenario.data.test_fraction,
        )
        for cell in every_cell(scenario)
    ]
    lenet, mlp = ("lenet", "none", ["cut"]), [("mlp", label, ["inverting_gradients"]) for label in ("clip", "dropout")]
    assert described == [(*lenet, 0), (*lenet, 0.5), *((*row, fraction) for fraction in (0, 0.5) for row in mlp)]
    assert all(cell.scenario.settings == () for cell in every_cell(scenario))
    assert every_cell(scenario)[-1].scenario.model.spec()["width"] == 4


def test_settings_survive_the_trip_too():
    scenario = _small(settings=[{"model.name": "lenet"}, {"model.name": "mlp"}], model={"name": "mlp", "dropout": 0.5})
    again = parse(json.loads(json.dumps(scenario.to_dict())), rehearsed=False)
    assert [cell.work() for cell in every_cell(again)] == [cell.work() for cell in every_cell(scenario)]
    assert again.digest() == scenario.digest() != _small().digest()


def test_a_part_of_a_scenario_has_the_cells_of_the_whole():
    whole = _small(settings=SETTINGS, sweep={"data.test_fraction": [0, 0.5]}, defenses=["none", "clip", "dropout"])
    part = only(whole, ["lenet", "clip"])
    assert [cell.defense_label for cell in every_cell(part)] == ["none", "clip"] * 2
    works = [cell.work() for cell in every_cell(whole)]
    assert all(cell.work() in works for cell in every_cell(part))
    assert [cell.defense_label for cell in every_cell(only(whole, ["batch 1"]))] == [
        cell.defense_label for cell in every_cell(whole)
    ]
    assert [cell.defense_label for cell in every_cell(only(_small(defenses=["none", "clip"]), ["clip"]))] == [
        "none",
        "clip",
    ]
    with pytest.raises(BadInput, match="--only lenet --only nothing: fits no cell; a cell is described by"):
        only(whole, ["lenet", "nothing"])


@pytest.mark.parametrize(
    "sweep",
    [
        {"federation.clients": [2, 8]},
        {"federation": [{"clients": 8}, {"clients": 3, "rounds": 2}]},
        {"federation.local.optimizer.name": ["adamw", "sgd"]},
        {"federation.local.optimizer": ["adamw", {"name": "sgd", "momentum": 0.9}]},
        {"data.name": ["photos", "mnist"]},
        {"utility.local.steps": [2, 1]},
    ],
    ids=lambda sweep: next(iter(sweep)),
)
def test_what_follows_from_a_varied_key_follows_from_it_again(sweep):
    federation = {"rounds": 2, "local": {"share": "weights"}}
    base = {"name": "varied", "attacks": [], "federation": federation, "utility": {"rounds": 1}}
    scenario = parse({**base, "victims": {"rounds": [1]}, "sweep": sweep}, rehearsed=False)
    assert len(every_cell(scenario)) == 2
    for again in (parse(json.loads(json.dumps(scenario.to_dict())), rehearsed=False), only(scenario, ["batch 1"])):
        assert [cell.work() for cell in every_cell(again)] == [cell.work() for cell in every_cell(scenario)]
        assert [c.scenario.victims for c in every_cell(again)] == [c.scenario.victims for c in every_cell(scenario)]


def test_all_clients_take_part_and_are_attacked_unless_said_otherwise():
    scenario = _small(sweep={"federation.clients": [6, 2]}, victims={"rounds": [1]})
    described = [(c.scenario.federation.clients_per_round, c.scenario.victims.clients) for c in every_cell(scenario)]
    assert described == [(6, 6), (2, 2)]
    assert _small(federation={"clients": 6, "clients_per_round": 3}).victims.clients == 3


def test_name_and_attacks_are_enough():
    scenario = parse({"name": "least", "attacks": []}, rehearsed=False)
    assert (scenario.data.name, scenario.model.name) == ("mnist", "mlp")
    assert [cell.defense_label for cell in every_cell(scenario)] == ["none"]


def test_the_threat_model_block_grants_and_nothing_else():
    [grants] = _small().grants()
    assert grants == {key: value for key, value in ThreatModel().as_dict().items() if key in grants}
    assert set(grants) == {
        "labels", "batch_size", "defense", "dropout_rate", "noise", "local_training", "batch_order", "auxiliary_data",
    }  # fmt: skip


def test_a_list_of_grants_is_each_of_them_in_every_combination():
    scenario = _small(threat_model={"defense": ["unknown", "known"], "labels": ["known", "inferred"]})
    told = [(grants["labels"], grants["defense"]) for grants in scenario.grants()]
    assert told == [("known", "unknown"), ("known", "known"), ("inferred", "unknown"), ("inferred", "known")]
    assert parse(scenario.to_dict(), rehearsed=False) == scenario
    assert len(every_cell(scenario)) == len(every_cell(_small()))  # one federation, whatever is granted


@pytest.mark.parametrize(
    ("grants", "message"),
    [
        ({"defense": ["known", "knwon"]}, r"threat_model.defense\[1\]: 'knwon' is not accepted; did you mean 'known'"),
        ({"defense": "knwon"}, r"threat_model.defense: 'knwon' is not accepted"),
        ({"defense": []}, r"threat_model.defense: the list is empty"),
        ({"labels": ["known", "known"]}, r"threat_model.labels\[1\]: known stands in threat_model.labels\[0\] already"),
        ({"labels": [["known"]]}, r"threat_model.labels\[0\]: "),
        ({"labels": None}, r"threat_model.labels: None"),
    ],
)
def test_wrong_grants_are_named_with_their_place(grants, message):
    with pytest.raises(BadInput, match=message):
        _small(threat_model=grants)


def test_every_registered_name_is_accepted():
    required = {"npz": {"path": "x.npz"}, "folder": {"path": "x"}, "hub": {"dataset": "x/y"}}
    from fedsim.scenario.schema import Scenario

    deployed = {"clients": 2, "rounds": 4, "local": {"batch_size": 2}}  # to sum up, to remember, to mix
    pairs = {"federation": deployed, "victims": {"clients": 2}}
    decoded = {"ggl", "gias"}  # each with a decoder
    listed = [{"name": name, "decoder": "conv"} if name in decoded else name for name in attacks.names()]
    for kind, names in (("attacks", listed), ("defenses", list(defenses.names()))):
        assert len(getattr(_small(**{kind: names, **pairs}), kind)) == len(names)
    for name in models.names():
        assert _small(model=name).model.name == name
    for name in data.names():
        plain = {**_small().to_dict(), "data": {"name": name, **required.get(name, {})}}
        assert Scenario.model_validate_json(json.dumps(plain)).data.name == name
    assert set(METRICS) == set(SCORED)


STUDIES = ("study-defenses", "is-anything-stochastic")  # their rehearsal takes a minute


@pytest.mark.parametrize("name", sorted(bundled()))
def test_bundled_scenarios_are_valid_described_and_fit_the_json_schema(name):
    scenario = load(name, rehearsed=name not in STUDIES)
    assert scenario.name == name
    assert scenario.description
    assert every_cell(scenario)
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.validate(YAML(typ="safe", pure=True).load(bundled()[name]))


def test_the_json_schema_knows_the_shorthands_and_refuses_mistakes():
    validator = jsonschema.Draft202012Validator(json_schema())
    good = {
        **SMALL,
        "defenses": ["none", ["clip", {"name": "dropout", "p": 0.1}]],
        "model": {"factory": "a.b:c", "width": 3},
    }
    validator.validate(good)
    for bad in (
        {"model": "mpl"},
        {"attacks": [{"name": "inverting_gradients", "iteratons": 1}]},
        {"seads": [1]},
        {"seeds": "x"},
    ):
        assert not validator.is_valid({**good, **bad}), bad


def test_an_attack_of_a_malicious_server_has_federations_of_its_own():
    plain = _small(defenses=["none", "clip"], attacks=["first_linear"])
    scenario = _small(defenses=["none", "clip"], attacks=["first_linear", "imprint", {"name": "imprint", "bins": 8}])
    cells = every_cell(scenario)
    assert [(c.defense_label, c.malicious and c.malicious["bins"]) for c in cells] == [
        (label, bins) for label in ("none", "clip") for bins in (None, 512, 8)
    ]
    assert [c.work() for c in cells if c.malicious is None] == [c.work() for c in every_cell(plain)]
    assert len({json.dumps(c.work().to_dict(), sort_keys=True) for c in cells}) == 6
    assert all(c.setting(1) == cells[0].setting(1) for c in cells)
    assert [Work.from_dict(json.loads(json.dumps(c.work().to_dict()))) for c in cells] == [c.work() for c in cells]


@pytest.mark.parametrize(
    ("model", "attack", "said"),
    [
        ({"name": "lenet"}, "trap_weights", "the first layer with parameters is features.0, Conv2d"),
        ({"name": "mlp", "bias": False}, "trap_weights", "has no bias, by whose gradient an image is divided"),
        ({"name": "mlp"}, {"name": "fishing", "target": 10}, "target = 10 is no class; accepted: 0 to 9"),
        ({"name": "mlp"}, {"name": "fishing", "then": "nothing"}, "then = 'nothing' is no attack that can follow"),
        ({"name": "mlp"}, {"name": "fishing", "then": "fishing"}, "then = 'fishing' is no attack that can follow"),
        ({"name": "mlp"}, {"name": "imprint", "gain": 0}, "gain = 0.0 is not a number above 0"),
    ],
    ids=["a convolution", "no bias", "no class", "no attack", "itself", "no gain"],
)
def test_a_model_that_a_server_cannot_change_so_is_refused_at_once(model, attack, said):
    with pytest.raises(BadInput, match=said) as refused:
        parse({"name": "changed", "model": model, "attacks": ["null_mean", attack]})
    assert "attacks[1]" in str(refused.value)


def test_of_two_attacks_of_one_name_the_one_to_blame_is_named():
    with pytest.raises(BadInput, match=r"attacks\[1\].*target = 10"):
        parse({"name": "changed", "attacks": ["fishing", {"name": "fishing", "target": 10}]})
    assert parse({"name": "changed", "model": {"name": "lenet"}, "attacks": ["imprint", "fishing"]})

"""A stranger's scenario narrowed to one cell and attack: what stays as it was, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from attacks import ThreatModel
from fedsim.errors import BadInput
from fedsim.reporting.entries import portable
from fedsim.runs.jobs import attempts, expected
from fedsim.runs.repeat import Part, repetition
from fedsim.scenario import every_cell, load, parse

SMALL = {
    "name": "small",
    "seeds": [0, 3],
    "data": "mnist",
    "model": {"name": "mlp", "width": 8},
    "federation": {"clients": 9, "rounds": 2},
    "victims": {"rounds": [1, 2], "clients": 9, "development": 2},
    "attacks": [{"name": "inverting_gradients", "iterations": 7}, {"name": "dlg", "iterations": 8}],
    "defenses": ["none", ["clip", {"name": "dropout", "p": 0.25}]],
    "utility": {"rounds": 1},
    "sweep": {"model.name": ["mlp", "lenet"], "federation.local.batch_size": [1, 2]},
}


def part_of(scenario, *, cell=-1, round=2, clients=3, at=0, **changed):
    chosen = every_cell(scenario)[cell]
    spec, grants = attempts(chosen)[at]
    content = {
        "definition": portable(json.loads(json.dumps(scenario.to_dict()))),
        "setting": portable(json.loads(json.dumps(chosen.setting(round)))),
        "defense": list(chosen.defense),
        "attack": spec["name"],
        "params": {key: value for key, value in spec.items() if key != "name"},
        "threat_model": ThreatModel(**grants).as_dict(),
        "seed": chosen.seed,
        "clients": clients,
    }
    return Part(**{**content, **changed})


def swept():
    data = {key: value for key, value in SMALL.items() if key != "model"}
    return parse({**data, "model": {"name": "mlp"}}, rehearsed=False)


def test_only_the_part_is_left_and_the_federation_is_the_same():
    scenario = swept()
    original = every_cell(scenario)[-1]
    again = repetition(part_of(scenario)).scenario
    [cell] = every_cell(again)
    assert (cell.seed, cell.defense, cell.scenario.victims.rounds) == (3, original.defense, (2,))
    assert (again.victims.clients, again.victims.development, again.utility) == (3, 0, None)
    assert [spec["name"] for spec in again.attack_specs()] == ["inverting_gradients"]
    ours, theirs = cell.work(), original.work()
    assert ours == replace(theirs, victims=ours.victims, utility=ours.utility)


def test_for_an_attack_that_looks_back_the_rounds_before_are_seen_again():
    keys = {"sweep": {}, "federation": {"clients": 9, "rounds": 4}, "defenses": ["none"]}
    keys["victims"] = {"rounds": [1, 3, 4], "clients": 9}
    alone = parse({**SMALL, **keys, "attacks": ["dlg"]}, rehearsed=False)
    scenario = parse({**SMALL, **keys, "attacks": ["dlg", "multi_round"]}, rehearsed=False)
    assert repetition(part_of(scenario, round=3, at=1)).scenario.victims.rounds == (1, 3)
    assert repetition(part_of(scenario, round=3, at=0)).scenario.victims.rounds == (3,)
    before = [every_cell(one)[0].setting(4).get("seen_before") for one in (scenario, alone)]
    assert before == [[1, 3], None]  # rows that were told other rounds are not pooled


@pytest.mark.parametrize("at", [1, 2], ids=["imprint", "of other options"])
def test_of_a_malicious_server_its_own_federation_is_repeated(at):
    tried = ["null_mean", "imprint", {"name": "imprint", "bins": 8}]
    scenario = parse({**SMALL, "sweep": {}, "defenses": ["none"], "attacks": tried}, rehearsed=False)
    original = every_cell(scenario)[3 + at]
    part = part_of(scenario, cell=3 + at, threat_model=ThreatModel(server="malicious").as_dict())
    cells = every_cell(repetition(part).scenario)
    assert [cell.malicious for cell in cells] == [None, original.malicious]
    assert original.malicious["bins"] == (512, 8)[at - 1]


def test_of_a_list_of_grants_only_what_the_rows_were_told_is_left():
    scenario = parse({**SMALL, "sweep": {}, "threat_model": {"defense": ["unknown", "known"]}}, rehearsed=False)
    for at, told in enumerate(("unknown", "known")):
        part = part_of(scenario, at=at)
        again = repetition(part).scenario
        assert [grants["defense"] for grants in again.grants()] == [part.threat_model["defense"]] == [told]
        assert {attempt.attack["name"] for attempt in attempts(every_cell(again)[0])} >= {"inverting_gradients"}
    wrong = part_of(scenario, threat_model=ThreatModel(labels="inferred").as_dict())
    with pytest.raises(BadInput, match="does not tell 'inverting_gradients' what the entry says it was told"):
        repetition(wrong)


@pytest.mark.parametrize(
    ("chunk", "clients", "attacked", "at_once"),
    [
        (64, 3, 3, (3, 9)),
        (64, 9, 9, (9, 9)),
        (64, 50, 9, (9, 9)),
        (2, 1, 1, (1, 2)),
        (2, 3, 4, (2, 2)),
        (4, 9, 9, (4, 4)),
    ],
)
def test_victims_are_attacked_in_the_groups_that_they_were_attacked_in(chunk, clients, attacked, at_once):
    scenario = parse({**SMALL, "sweep": {}, "engine": {"chunk": chunk}}, rehearsed=False)
    again = repetition(part_of(scenario, clients=clients))
    assert again.scenario.victims.clients == attacked
    assert (again.together, again.formerly) == at_once


def test_a_sum_is_repeated_with_all_its_clients():
    keys = {"sweep": {}, "victims": {"rounds": [1, 2], "clients": 9}, "defenses": ["secure_aggregation"]}
    scenario = parse({**SMALL, **keys}, rehearsed=False)
    again = repetition(part_of(scenario, clients=3))
    assert again.scenario.victims.clients == 9
    assert expected(every_cell(again.scenario)[0]) == 1


def test_a_key_that_came_later_has_its_default():
    scenario = swept()
    setting = json.loads(json.dumps(every_cell(scenario)[-1].setting(2)))
    del setting["federation"]["local"]["precision"], setting["engine"]
    [cell] = every_cell(repetition(part_of(scenario, setting=setting)).scenario)
    assert cell.model_spec() == every_cell(scenario)[-1].model_spec()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"setting": {}}, "no federation of the entry's setting"),
        ({"setting": {"round": 2}}, "4 federations of the entry's setting"),
        ({"setting": {"round": 2, "start": 3}}, "no federation of the entry's setting"),
        ({"setting": {"round": 2, "weather": "fine"}}, "no federation of the entry's setting"),
        ({"defense": [{"name": "none"}, {"name": "none"}]}, "no federation of the entry's setting"),
        ({"params": {"iterations": 9}}, "no attack 'inverting_gradients' with"),
        ({"attack": "cut"}, "no attack 'cut'"),
        ({"definition": {"name": "x"}}, "attacks"),
        ({"definition": {"name": "x", "data": [], "attacks": {}, "sweep": 3}}, r"attacks|data|sweep"),
        ({"definition": {"name": 3, "federation": [], "victims": 4, "attacks": [[]]}}, r"attacks|name|victims"),
    ],
)
def test_what_the_scenario_does_not_have_is_refused_in_one_line(changed, said):
    with pytest.raises(BadInput, match=said) as refusal:
        repetition(part_of(swept(), **changed))
    assert "\n" not in str(refusal.value)


FACTORY = "evil:build"


@pytest.mark.parametrize(
    "place",
    [
        {"model": {"factory": FACTORY}},
        {"sweep": {"model.factory": [FACTORY]}},
        {"sweep": {"model": [{"factory": FACTORY}]}},
    ],
)
def test_a_strangers_code_is_named_and_not_imported(tmp_path, monkeypatch, place):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    definition = {**SMALL, "sweep": {}, **place}
    with pytest.raises(BadInput, match=r"factory 'evil:build'.*--allow-factory"):
        repetition(part_of(swept(), definition=definition))


def test_a_strangers_code_is_imported_where_that_is_allowed(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    part = part_of(parse({**SMALL, "sweep": {}, "model": {"factory": FACTORY}}, rehearsed=False))
    with pytest.raises(BadInput, match="imported"):
        repetition(part, allow_factory=True)


def test_files_are_taken_from_where_they_are_said_to_be_and_only_with_the_same_content(tmp_path, monkeypatch):
    def pixels(seed):
        return {"x": np.random.default_rng(seed).integers(0, 255, (60, 8, 8), np.uint8), "y": np.arange(60) % 3}

    np.savez(tmp_path / "own.npz", **pixels(0))
    np.savez(tmp_path / "other.npz", **pixels(1))
    small = {**SMALL, "sweep": {}, "data": {"name": "npz", "path": str(tmp_path / "own.npz")}}
    part = part_of(parse(small, rehearsed=False))
    assert str(tmp_path) not in json.dumps([part.definition, part.setting])
    monkeypatch.chdir(tmp_path)  # a file of this name is not yet the stranger's
    with pytest.raises(BadInput, match=r"reads the file 'own.npz'; say where it is by --set data.path=FILE"):
        repetition(part)
    (tmp_path / "mine.npz").write_bytes((tmp_path / "own.npz").read_bytes())
    assert repetition(part, ["data.path=mine.npz"]).scenario.data.path == str(tmp_path / "mine.npz")
    with pytest.raises(BadInput, match="another content"):
        repetition(part, ["data.path=other.npz"])


def test_bundled_scenarios_are_found_again_in_their_own_definitions():
    for name in ("smoke", "quickstart"):
        scenario = load(name, rehearsed=False)
        for place, cell in enumerate(every_cell(scenario)):
            assert repetition(part_of(scenario, cell=place, round=1)).scenario.seeds == (cell.seed,)

"""A rehearsal of a scenario before anything is written: the data are loaded, the models built, the defenses tried,
checkpoints read, one step of a client taken and one gradient of an attack.

What only they can know (an archive of the wrong shape, a patch that does not divide the image, a layer that Opacus
refuses, a model that cannot train on one image) is thus an error of the input, not of a run that has started. What was
tried once is not tried again.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import attacks
from attacks.cascade import Cascade
from attacks.iterative import IterativeAttack
from fedsim import data, decoders, models
from fedsim.data import Dataset
from fedsim.errors import BadInput, caution
from fedsim.paths import admit_user_code
from fedsim.random import seed_for
from fedsim.scenario import trial
from fedsim.scenario.batches import check_batches
from fedsim.scenario.cells import Cell, every_cell, servers
from fedsim.scenario.document import KeyPath, Problem, parse_path
from fedsim.scenario.filled import filled
from fedsim.scenario.schema import Scenario
from fedsim.sent import changed


def rehearse(scenario: Scenario) -> None:
    """Try every cell of a scenario without a sweep. Raises `Problem`."""
    admit_user_code()
    dataset = _data(scenario)
    divisions = []
    for seed in scenario.seeds:
        try:
            spec = scenario.data.partition.model_dump_json()
            divisions.append(_divide(dataset, spec, scenario.federation.clients, seed))
        except BadInput as error:
            raise _problem(error, ("data", "partition")) from None
    check_batches(scenario, divisions)
    for i, attack in enumerate(scenario.attacks):
        _decoder(attack.spec(), dataset, ("attacks", i, "decoder"))
    alike = len(servers(scenario))
    for i, cell in enumerate(every_cell(scenario)[: len(scenario.defenses) * alike]):
        if cell.malicious is None:
            _model(cell, dataset, ("defenses", i // alike))
        else:
            _malicious(cell, cell.malicious, dataset)
    if scenario.model.checkpoint is not None:
        _checkpoint(scenario, dataset)


def _data(scenario: Scenario) -> Dataset:
    try:
        return data.load(scenario.data.model_dump(mode="json", exclude_none=True))
    except BadInput as error:
        raise _problem(error, ("data", "path") if hasattr(scenario.data, "path") else ("data",)) from None


def _model(cell: Cell, dataset: Dataset, defense: KeyPath) -> None:
    spec = cell.model_spec()
    shape = dataset.input_shape
    try:
        code = models.source(spec["factory"]) if "factory" in spec else ""
        model, working = json.dumps(spec, sort_keys=True), json.dumps(cell.working_defense())
        _try(model, code, shape, len(dataset.classes), working)
        source = json.dumps(cell.scenario.data.model_dump(mode="json", exclude_none=True), sort_keys=True)
        local, utility = cell.local(), cell.utility()
        trained = {("federation", "local"): local}
        if utility:
            trained["utility", "local"] = utility.local.of(local)
        elsewhere = cell.scenario.model.checkpoint is not None
        for block, described in trained.items():
            for parts in dict.fromkeys(("[]", working)):  # without the defense, a fault is the model's
                trial.step(model, code, source, parts, described, weights=elsewhere)
            if reason := trial.explodes(model, code, source, working, described):
                raise Problem((*block, "learning_rate"), reason)
        own = "factory" in spec and _optimises(cell.scenario)  # that the bundled ones can be attacked is known
        if own and (reason := trial.unmatchable(model, code, source, local)):
            caution(f"model factory {spec['factory']!r}: attacks that optimise will not apply: {reason}")
    except BadInput as error:
        raise _problem(error, ("model",), spec) from None
    except ValueError as error:
        raise _problem(error, defense) from None


def _decoder(attack: dict[str, Any], dataset: Dataset, path: KeyPath) -> None:
    """Whether an attack's decoder, if it has one, makes images such as the clients have."""
    try:
        decoders.built(attack, input_shape=dataset.input_shape)
    except BadInput as error:
        message = str(error)
        if (key := "decoder.checkpoint: ") and message.startswith(key):
            raise Problem((*path, "checkpoint"), message.removeprefix(key)) from None
        raise Problem(path, message) from None


def _malicious(cell: Cell, attack: dict[str, Any], dataset: Dataset) -> None:
    """Whether the model is one that the server of an attack can change so."""
    if not len(dataset.public):
        raise Problem(("data",), "has no test image, by which a malicious server sets its weights")
    try:
        spec = {**cell.model_spec(), "malicious": attack}
        model = models.build(spec, input_shape=dataset.input_shape, classes=len(dataset.classes), seed=0)
        changed(model, dataset, attack, seed=0)
    except ValueError as error:
        at = [filled(attack.spec()) for attack in cell.scenario.attacks].index(attack)
        raise _problem(error, ("attacks", at)) from None


def _optimises(scenario: Scenario) -> bool:
    return any(issubclass(attacks.get(attack.name), IterativeAttack | Cascade) for attack in scenario.attacks)


@lru_cache(maxsize=256)
def _try(model: str, code: str, shape: tuple[int, int, int], classes: int, working: str) -> None:
    spec = {**json.loads(model), "defenses": json.loads(working)}
    models.build(spec, input_shape=shape, classes=classes, seed=0)


def _checkpoint(scenario: Scenario, dataset: Dataset) -> None:
    spec, path = json.dumps(scenario.model.spec(), sort_keys=True), str(scenario.model.checkpoint)
    try:
        _restore(spec, dataset.input_shape, len(dataset.classes), path, models.fingerprint(path))
    except BadInput as error:
        raise _problem(error, ("model", "checkpoint")) from None


@lru_cache(maxsize=64)
def _restore(model: str, shape: tuple[int, int, int], classes: int, path: str, content: str) -> None:
    models.restore(models.build(json.loads(model), input_shape=shape, classes=classes, seed=0), path)


@lru_cache(maxsize=8)
def _divide(dataset: Dataset, partition: str, clients: int, seed: int) -> list[int]:
    """How many training images each client has."""
    parts = data.partition(dataset.train_labels, clients, json.loads(partition), seed_for(seed, "partition"))
    return [len(part) for part in parts]


def _problem(error: Exception, path: KeyPath, spec: dict[str, Any] | None = None) -> Problem:
    """The lower layers name the key they blame in front of their message, or a parameter within it."""
    message = " ".join(str(error).split())
    named = re.match(r"((?:data|federation|model)\.[a-z_.]+): (.+)", message)
    if named:
        return Problem(parse_path(named[1]), named[2])
    keys = [key for key in spec or {} if key != "name" and re.search(rf"\b{re.escape(key)}\b", message)]
    return Problem((*path, *keys[:1]), message)

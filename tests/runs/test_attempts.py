"""Under which grants an attack runs on a cell: under each that can make a difference to it, once."""

from __future__ import annotations

from fedsim.runs.jobs import attempts
from fedsim.scenario import every_cell, parse


def told(field, listed, attack, *, defense="none", **changed):
    """What an attack is told of `field` on the first cell, one value for each time that it runs."""
    scenario = parse(
        {
            "name": "grants",
            "model": {"name": "mlp", "dropout": 0.5},
            "attacks": [attack],
            "defenses": [defense],
            "threat_model": {field: listed},
            **changed,
        },
        rehearsed=False,
    )
    found = attempts(every_cell(scenario)[0])
    return [attempt.grants[field] for attempt in found if attempt.attack["name"] == attack]


BOTH = ["unknown", "known"]


def test_a_defense_is_known_and_unknown_where_there_is_one():
    assert told("defense", BOTH, "inverting_gradients", defense="clip") == BOTH
    assert told("defense", BOTH, "inverting_gradients", defense=["clip", "gaussian_noise"]) == BOTH
    assert told("defense", BOTH, "inverting_gradients") == ["unknown"]
    assert told("defense", BOTH, "inverting_gradients", defense="dropout") == ["unknown"]  # `dropout_rate` grants that
    assert told("defense", BOTH[::-1], "inverting_gradients") == ["known"]


def test_a_rate_is_known_and_unknown_where_something_is_dropped():
    assert told("dropout_rate", BOTH, "dropout_inversion") == BOTH
    assert told("dropout_rate", BOTH, "dropout_inversion", model={"name": "mlp", "dropout": 0}) == ["unknown"]
    assert told("dropout_rate", BOTH, "dropout_inversion", model={"name": "mlp"}, defense="dropout") == BOTH


def test_the_order_of_epochs_is_known_and_unknown_where_there_are_epochs():
    epochs = {"federation": {"local": {"epochs": 2, "examples": 2, "share": "weights"}}}
    assert told("batch_order", BOTH, "inverting_gradients", **epochs) == BOTH
    assert told("batch_order", BOTH, "inverting_gradients") == ["unknown"]


def test_what_an_attack_does_not_use_or_is_given_anyhow_runs_once():
    assert told("labels", ["known", "inferred"], "inverting_gradients") == ["known", "inferred"]
    assert told("labels", ["known", "inferred"], "sparse_dictionary") == ["known"]
    assert told("noise", BOTH, "well_informed") == ["unknown"]  # it has `given`
    assert told("defense", BOTH, "null_mean", defense="clip") == ["unknown"]


def test_lists_of_two_grants_give_every_combination_that_differs():
    scenario = parse(
        {
            "name": "grants",
            "model": {"name": "mlp", "dropout": 0.5},
            "attacks": ["inverting_gradients"],
            "defenses": ["none", "clip"],
            "threat_model": {"defense": BOTH, "labels": ["known", "inferred"]},
        },
        rehearsed=False,
    )
    named = [[a for a in attempts(cell) if a.attack["name"] == "inverting_gradients"] for cell in every_cell(scenario)]
    assert [len(found) for found in named] == [2, 4]


def test_an_attack_of_a_malicious_server_runs_on_its_own_federation_and_nothing_else_does():
    scenario = parse({"name": "changed", "attacks": ["first_linear", "imprint", "trap_weights"]}, rehearsed=False)
    tried = [[attempt.attack["name"] for attempt in attempts(cell)] for cell in every_cell(scenario)]
    assert tried == [["first_linear", "null_mean", "null_random"], ["imprint"], ["trap_weights"]]

"""The letter of an adversary's knowledge, and what of it no real server has."""

import pytest

import attacks
from attacks import ThreatModel
from attacks.threat import GRANTS, LETTERS, beyond, letter

NOTHING = {
    "labels": "inferred",
    "batch_size": "unknown",
    "defense": "unknown",
    "dropout_rate": "unknown",
    "local_training": "unknown",
}
EVERY = frozenset({*GRANTS, "batch_norm"})


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, "A"),
        ({"batch_size": "known"}, "B"),
        ({"labels": "known"}, "B"),
        ({"batch_size": "known", "local_training": "known"}, "C"),
        ({"defense": "known"}, "C"),
        ({"auxiliary_data": "public"}, "D"),
        ({"auxiliary_data": "public", "batch_norm": "running"}, "D"),
        ({"auxiliary_data": "public", "batch_norm": "batch"}, "E"),
        ({"server": "malicious", "local_training": "known"}, "F"),
        ({"server": "malicious", "auxiliary_data": "public"}, "G"),
    ],
)
def test_each_letter_is_what_the_adversary_has(known, expected):
    assert letter(ThreatModel(**{**NOTHING, **known}), EVERY) == expected
    assert expected in LETTERS


def test_what_an_attack_does_not_use_gives_it_no_letter():
    rich = ThreatModel(auxiliary_data="public", batch_norm="batch")
    assert letter(rich, attacks.get("inverting_gradients").uses()) == "C"
    assert letter(rich, attacks.get("null_mean").uses()) == "D"
    assert letter(rich, attacks.get("gradinversion").uses()) == "E"


@pytest.mark.parametrize(
    ("known", "images", "expected"),
    [
        ({"labels": "known"}, 1, ()),
        ({"labels": "known"}, 2, ("labels",)),
        ({"labels": "inferred"}, 2, ()),
        ({"labels": "inferred", "noise": "known"}, 1, ("noise",)),
        ({"labels": "known", "batch_order": "known"}, 8, ("batch_order", "labels")),
    ],
)
def test_what_no_real_server_has_is_named(known, images, expected):
    assert beyond(ThreatModel(**known), EVERY, images=images) == expected


def test_what_an_attack_does_not_use_makes_no_upper_bound_of_it():
    told = ThreatModel(labels="known", noise="known")
    assert beyond(told, attacks.get("sparse_dictionary").uses(), images=8) == ()
    assert beyond(told, attacks.get("well_informed").uses(), images=8) == ("noise", "labels")

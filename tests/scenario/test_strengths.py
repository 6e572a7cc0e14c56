"""A defense at several strengths in one entry stands for as many, and its errors are placed where it was written."""

from __future__ import annotations

import jsonschema
import pytest

from fedsim.errors import BadInput
from fedsim.scenario import every_cell, json_schema, load, parse

LEAST = {"name": "strengths", "model": "mlp", "attacks": ["cut"], "victims": {"clients": 1}}


def labels(*entries):
    return [cell.defense_label for cell in every_cell(parse({**LEAST, "defenses": list(entries)}, rehearsed=False))]


def test_a_list_of_strengths_is_a_defense_each():
    assert labels("none", {"name": "gaussian_noise", "std": [0.001, 0.01]}, "clip") == [
        "none",
        "gaussian_noise(std=0.001)",
        "gaussian_noise(std=0.01)",
        "clip",
    ]


def test_a_composition_has_every_combination():
    strengths = [{"name": "clip", "norm": [1.0, 2.0]}, {"name": "gaussian_noise", "std": [0.1, 0.2]}]
    assert labels(strengths) == [
        f"clip(norm={norm}) + gaussian_noise(std={std})" for norm in (1.0, 2.0) for std in (0.1, 0.2)
    ]


def test_written_out_it_is_the_same_scenario():
    scenario = parse({**LEAST, "defenses": [{"name": "pruning", "keep": [0.1, 0.5]}]}, rehearsed=False)
    assert parse(scenario.to_dict(), rehearsed=False) == scenario


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"name": "clip", "norm": [1.0, 2.0]}, {"name": "clip", "nrom": 1.0}], r"defenses\[1\]\[0\].nrom: unknown"),
        ([{"name": "clip", "norm": [1.0, 2.0]}, {"name": "pruning", "keep": 3.0}], r"defenses\[1\]\[0\].keep: .*keep"),
        ([{"name": "clip", "norm": [1.0, -2.0]}], r"defenses\[0\]\[0\].norm: .*norm"),
        ([{"name": "clip", "norm": [1.0, "a"]}], r"defenses\[0\]\[0\].norm: 'a' should be a valid number"),
        ([{"name": "clip", "norm": [1.0, 1.0]}], r"defenses\[0\]: clip\(norm=1.0\) stands in defenses\[0\] already"),
        ([{"name": "clip", "norm": []}], r"defenses\[0\]\[0\].norm: \[\] should be a valid number"),
        ([{"name": "clip", "norm": [[1.0]]}], r"defenses\[0\]\[0\].norm: \[1.0\] should be a valid number"),
        ([{"name": ["clip", "none"]}], r"defenses\[0\]"),
        ([[{"name": "clip", "norm": [*range(1, 101)]}] * 9], r"defenses: 10{18} defenses with all"),
    ],
)
def test_what_is_wrong_is_placed_where_it_was_written(entries, message):
    with pytest.raises(BadInput, match=message):
        parse({**LEAST, "defenses": entries}, rehearsed=False)


def test_what_a_rehearsal_finds_is_placed_in_the_file(tmp_path):
    path = tmp_path / "strengths.yaml"
    path.write_text(
        "name: x\nmodel: mlp\nattacks: [cut]\nvictims: {clients: 1}\ndefenses:\n"
        "  - {name: gaussian_noise, std: [0.001, 0.01]}\n  - precode\n  - {name: precode, beta: [0.1, -1]}\n"
    )
    with pytest.raises(BadInput, match=r"strengths.yaml:8:\d+: defenses\[2\]\[0\].beta: "):
        load(path, rehearsed=False)


def test_editors_accept_strengths():
    schema = json_schema()
    jsonschema.validate({**LEAST, "defenses": [{"name": "pruning", "keep": [0.1, 0.5]}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**LEAST, "defenses": [{"name": "pruning", "keep": []}]}, schema)

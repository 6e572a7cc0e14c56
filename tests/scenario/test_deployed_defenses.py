"""A defense that would do nothing in the scenario's federation is refused: its rows would say that it was tried."""

from __future__ import annotations

import copy

import pytest
from ruamel.yaml import YAML

import defenses
from defenses.base import Deployment
from fedsim.cli import main
from fedsim.errors import BadInput
from fedsim.scenario import every_cell, parse

GOOD = {
    "name": "deployed",
    "data": {"name": "mnist"},
    "model": {"name": "mlp", "width": 8},
    "federation": {"clients": 3, "clients_per_round": 2, "rounds": 2, "local": {"batch_size": 2}},
    "victims": {"clients": 2},
    "attacks": ["null_mean"],
    "defenses": ["none", "mixup", {"name": "pruning", "error_feedback": True}, ["clip", "secure_aggregation"]],
    "metrics": ["psnr"],
}

REFUSED = [
    ("federation.local.batch_size=1", "defenses[1][0]: mixup: an image has nothing to be mixed with in a batch of 1"),
    ("federation.rounds=1", "defenses[2][0].error_feedback: pruning: error_feedback acts on a client's next round"),
    ("federation.clients_per_round=1", "defenses[3][1]: secure_aggregation: the sum over one client is its update"),
    ("federation.clients_per_round=3", "victims.clients: 2, but under clip + secure_aggregation the server sees one"),
    ("victims.development=1", "victims.development: 1, but under clip + secure_aggregation all victims of a round"),
]


@pytest.mark.parametrize(("option", "expected"), REFUSED)
def test_it_is_refused_by_key_and_reason(option, expected):
    key, value = option.split("=")
    spoilt = copy.deepcopy(GOOD)
    if option == "federation.clients_per_round=1":
        spoilt["victims"]["clients"] = 1
    *path, last = key.split(".")
    block = spoilt
    for name in path:
        block = block[name]
    block[last] = int(value)
    assert len(every_cell(parse(GOOD, rehearsed=False))) == 4
    with pytest.raises(BadInput) as caught:
        parse(spoilt, rehearsed=False)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_epochs_over_a_single_example_have_nothing_to_mix():
    local = {"batch_size": 2, "epochs": 2, "examples": 1, "share": "weights"}
    with pytest.raises(BadInput, match="nothing to be mixed with"):
        parse({**GOOD, "federation": {**GOOD["federation"], "local": local}}, rehearsed=False)


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ({"optimizer": "adam"}, "federation.local.optimizer: share: gradient sends the gradient before any optimizer"),
        ({"optimizer": {"name": "adamw"}, "share": "gradient"}, "federation.local.optimizer: share: gradient sends"),
        ({"epochs": 2}, "federation.local.epochs: share: gradient is of one step; use share: weights for epochs"),
        ({"epochs": 2, "examples": 0, "share": "weights"}, "federation.local.examples: 0 should be greater"),
        ({"examples": 3, "share": "weights"}, "federation.local.examples: says how many examples epochs go through"),
    ],
)
def test_a_training_without_a_meaning_is_refused_by_key_and_reason(local, expected):
    with pytest.raises(BadInput) as caught:
        parse({**GOOD, "federation": {**GOOD["federation"], "local": {"batch_size": 2, **local}}}, rehearsed=False)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bottleneck_needs_a_linear_head(tmp_path, monkeypatch):
    (tmp_path / "headless.py").write_text(
        "from torch import nn\n"
        "def make(*, input_shape, classes):\n"
        "    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    return nn.Sequential(nn.Conv2d(input_shape[0], classes, 3), pooled)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = {"name": "factory", "factory": "headless:make"}
    with pytest.raises(BadInput) as caught:
        parse({**GOOD, "model": model, "defenses": ["none", "precode"]})
    assert "defenses[1]: precode: Sequential has no linear layer to put a bottleneck before" in str(caught.value)


def test_the_command_ends_with_2(tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.yaml"
    with path.open("w") as file:
        YAML().dump({**GOOD, "federation": {**GOOD["federation"], "rounds": 1}}, file)
    monkeypatch.setattr("sys.argv", ["fedsim", "check", str(path)])
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "error_feedback acts on a client's next round" in capsys.readouterr().err


def test_a_composition_refuses_what_a_part_refuses():
    parts = defenses.compose([{"name": "clip"}, {"name": "mixup"}])
    assert "mixup" in str(parts.refuses(Deployment(batch_size=1, clients=5, rounds=5)))
    assert parts.refuses(Deployment(batch_size=2, clients=1, rounds=1)) is None

"""Every mistake in a scenario is one line: file, line, column and key (or the option), and what is accepted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedsim.errors import BadInput
from fedsim.scenario import every_cell, load, parse

GOOD = """\
name: mine
description: A scenario to be spoilt.
seeds: [0, 1]
data:
  name: mnist
  partition: {kind: iid}
model:
  name: mlp
  width: 16
federation:
  clients: 4
  clients_per_round: 4
  rounds: 2
  local: {batch_size: 1, steps: 1, share: gradient}
victims: {rounds: [1, 2], clients: 4}
attacks:
  - inverting_gradients
  - {name: dropout_inversion, iterations: 20}
defenses:
  - none
  - {name: dropout, p: 0.5}
  - [{name: clip, norm: 1.0}, none, {name: gaussian_noise, std: 0.001}]
metrics: [mse, psnr]
"""

BOMB = b"a0: &a0 [x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 12)
)
"""A few hundred bytes whose aliases stand for 10^11 values."""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    return path


def _message(path, *options) -> str:
    with pytest.raises(BadInput) as caught:
        load(path, options)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{path.parent}/", "")


def test_the_file_that_the_others_spoil_is_good(file):
    assert len(every_cell(load(file))) == 6


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  width: 16", "  @widht: 16", "model.widht: unknown key; did you mean 'width'? (accepted: name, width,"),
        ("iterations: 20", "@iteratons: 20", "attacks[1].iteratons: unknown key; did you mean 'iterations'?"),
        ("seeds:", "@seads:", "seads: unknown key; did you mean 'seeds'?"),
        ("std: 0.001", "@sdt: 0.001", "defenses[2][2].sdt: unknown key; did you mean 'std'?"),
        ("p: 0.5}", "@q: 0.5}", "defenses[1][0].q: unknown key"),
        ("share: gradient", "@shares: gradient", "federation.local.shares: unknown key; did you mean 'share'?"),
        ("{kind: iid}", "{kind: iid, @alpha: 1}", "data.partition.alpha: unknown key"),
        ("{kind: iid}", "@{kind: dirichlet}", "data.partition.alpha: missing key"),
        ("{kind: iid}", "{kind: @idd}", "data.partition.kind: unknown kind 'idd'; did you mean 'iid'?"),
        ("name: mlp", "name: @mpl", "model.name: unknown model 'mpl'; did you mean 'mlp'?"),
        ("- inverting_gradients", "- @invert_gradients", "attacks[0].name: unknown attack 'invert_gradients'; did you"),
        ("- none", "- @nnoe", "defenses[0][0].name: unknown defense 'nnoe'; did you mean 'none'?"),
        ("name: mnist", "name: @minst", "data.name: unknown data set 'minst'; did you mean 'mnist'?"),
        ("iterations: 20", "iterations: @many", "attacks[1].iterations: 'many' should be a whole number"),
        ("iterations: 20", "iterations: @2.5", "attacks[1].iterations: 2.5 should be a whole number"),
        ("rounds: 2", "rounds: @true", "federation.rounds: True should be a whole number"),
        ("[mse, psnr]", "[mse, @psrn]", "metrics[1]: 'psrn' is not accepted; did you mean 'psnr'?"),
        ("[mse, psnr]", "[mse, @mse]", "metrics[1]: mse stands in metrics[0] already"),
        ("p: 0.5}", "p: @1.0}", "defenses[1][0].p: dropout: p = 1.0 is not in [0, 1)"),
        ("p: 0.5}", "p: @-0.1}", "defenses[1][0].p: dropout: p = -0.1 is not in [0, 1)"),
        ("norm: 1.0", "norm: @0", "defenses[2][0].norm: clip: norm = 0.0 is not a positive number"),
        ("  width: 16", "  width: @0", "model.width: model 'mlp': width = 0 is not a whole number"),
        ("  width: 16", "  dropout: @1.2", "model.dropout: 1.2 should be less than 1"),
        ("clients: 4}", "clients: @5}", "victims.clients: 5 victims, but only 4 clients take part in a round"),
        ("[1, 2], c", "[1, @3], c", "victims.rounds[1]: round 3 of a federation of 2"),
        ("[1, 2], c", "[@0, 2], c", "victims.rounds[0]: 0 should be greater than or equal to 1"),
        ("clients_per_round: 4", "clients_per_round: @9", "federation.clients_per_round: 9 clients a round, but there"),
        ("steps: 1", "steps: @3", "federation.local.steps: share: gradient needs steps: 1, not 3; use share: weights"),
        ("steps: 1", "schedule: @cosin", "federation.local.schedule.name: unknown schedule 'cosin'; did you mean"),
        ("steps: 1", "schedule: @step", "federation.local.schedule: share: gradient is sent before any step"),
        (
            "steps: 1, share: gradient",
            "share: weights, schedule: {name: step, gamma: @-1.0}",
            "federation.local.schedule.gamma: step: gamma = -1.0 is not a number of at least 0",
        ),
        (
            "steps: 1, share: gradient",
            "share: weights, groups: [{parameters: ['*'], optimizer: {name: sgd, @momentom: 1}}]",
            "federation.local.groups[0].optimizer.momentom: unknown key",
        ),
        (
            "steps: 1, share: gradient",
            "share: weights, groups: [{parameters: ['*'], scale: @-1.0}]",
            "federation.local.groups[0].scale: -1.0 should be greater than or equal to 0",
        ),
        ("[0, 1]", "[0, @0]", "seeds[1]: 0 stands in seeds[0] already"),
        ("[0, 1]", "@[]", "seeds: the list is empty"),
        ("[0, 1]", "[0, @-1]", "seeds[1]: -1 should be greater than or equal to 0"),
        ("name: mine", "name: @../mine", "name: '../mine' names a directory: letters, digits, - _ ."),
        ("name: mine\n", "@", "name: missing key"),
        ("data:\n  name: mnist", "@data:\n  name: npz", "data.path: missing key"),
        ("  clients: 4", "  clients: 4\n  @clients: 4", "federation.clients: the key stands here a second time"),
        ("- none", "- none\n  - @none", "defenses[1]: none stands in defenses[0] already"),
        ("metrics:", "engine: {compile: @maybe}\nmetrics:", "engine.compile: 'maybe' is not accepted (accepted: auto,"),
        ("metrics:", "threat_model: {@server: malicious}\nmetrics:", "threat_model.server: unknown key"),
        (
            "metrics:",
            "sweep: {model.name: [mlp, @lenet]}\nmetrics:",
            "sweep.model.name[1]: with model.name=lenet: model.",
        ),
        ("metrics:", "sweep:\n  @seeds: [[1], [2]]\nmetrics:", "sweep.seeds: seeds cannot be swept"),
        ("metrics:", "sweep: {model.depth: @[]}\nmetrics:", "sweep.model.depth: the list is empty"),
        (
            "metrics:",
            "sweep: {@model..depth: [1]}\nmetrics:",
            "sweep.model..depth: 'model..depth' is not a dotted path",
        ),
        ("metrics:", "sweep: {@name: [a, b]}\nmetrics:", "sweep.name: name cannot be swept"),
        ("metrics:", "settings: [@{}]\nmetrics:", "settings[0]: nothing is here"),
        ("metrics:", "settings: [{@seeds: [1]}]\nmetrics:", "settings[0].seeds: seeds is of the whole scenario"),
        ("metrics:", "settings: [{@model..x: 1}]\nmetrics:", "settings[0].model..x: 'model..x' is not a dotted path"),
        (
            "metrics:",
            "settings: [{model.depth: 1}, {model.width: @x}]\nmetrics:",
            "settings[1].model.width: with model.width=x: model.width: 'x' should be",
        ),
        (
            "metrics:",
            "settings: [{defenses: [none, {name: clip, norm: @0}]}]\nmetrics:",
            "settings[0].defenses[1][0].norm: clip: norm = 0.0 is not a positive number",
        ),
        (
            "metrics:",
            "settings: [{@model.width: 3}]\nsweep: {model: [mlp]}\nmetrics:",
            "settings[0].model.width: sweep.model varies it too",
        ),
    ],
)
def test_a_mistake_in_the_file_is_located(file, old, new, expected):
    """The @ marks where the message must point."""
    marked = GOOD.replace(old, new, 1)
    before = marked[: marked.index("@")]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    file.write_text(marked.replace("@", ""))
    assert _message(file).startswith(f"mine.yaml:{line}:{column}: {expected}")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("model.widht=3", "--set model.widht=3: unknown key; did you mean 'width'?"),
        ("model.width=x", "--set model.width=x: 'x' should be a whole number"),
        ("attacks[1].iterations=5.5", "--set attacks[1].iterations=5.5: 5.5 should be a whole number"),
        ("attacks.0.iteratons=5", "--set attacks.0.iteratons=5: unknown key; did you mean 'iterations'?"),
        ("attacks.7=none", "--set attacks.7=none: attacks is a list of 2: give an index from 0 to 1"),
        ("name.x=1", "--set name.x=1: name is 'mine', which has no keys"),
        ("x.y=1", "--set x.y=1: x: unknown key"),
        ("model", "--set model: expected key=value"),
        ("=1", "--set =1: expected key=value"),
        ("model..width=1", "--set model..width=1: 'model..width' is not a dotted path"),
        ("model.width=[1", "--set model.width=[1: not valid YAML"),
        ("data.name=npz", "--set data.name=npz: data.path: missing key"),
        ("model={name: lenet, z: 1}", "--set model={name: lenet, z: 1}: model.z: unknown key"),
        ("victims.clients=5", "--set victims.clients=5: 5 victims, but only 4"),
        ("federation.clients_per_round=2", "mine.yaml:15:36: victims.clients: 4 victims, but only 2 clients"),
        ("settings=[{model.width: 0}]", "settings=[{model.width: 0}]: settings[0].model.width: with model.width=0"),
        ("sweep.model.width=[8, x]", "--set sweep.model.width=[8, x]: sweep.model.width[1]: with model.width=x: model"),
        ("federation.clients=9999", "--set federation.clients=9999: 9999 clients, but 4000 training examples"),
    ],
)
def test_a_mistake_in_an_option_names_the_option(file, option, expected):
    assert expected in _message(file, option)


def test_options_reach_into_shorthands_and_apply_in_order(file):
    scenario = load(
        file, ["attacks.0.iterations=7", "defenses.1.p=0.25", "model=lenet", "model.dropout=0.5", "utility.rounds=3"]
    )
    assert scenario.attacks[0].spec()["iterations"] == 7
    assert scenario.defenses[1][0].spec() == {"name": "dropout", "p": 0.25}
    assert scenario.model.spec()["name"] == "lenet"
    assert scenario.model.spec()["dropout"] == 0.5
    assert scenario.utility is not None
    assert scenario.utility.rounds == 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"# nothing\n", "the file is empty"),
        (b"- a\n", "a scenario is a mapping of keys, not a list"),
        (b"hello", "a scenario is a mapping of keys, not the single value 'hello'"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"name: a\x01", "not valid YAML"),
        (b"name: a\n---\nname: b\n", "not valid YAML: expected a single document"),
        (b"name: !!python/object/apply:os.system [true]", "mine.yaml:1:7: the YAML tag"),
        (b"a: &a {b: 1}\nc: {<<: *a}\n", "mine.yaml:2:5: merge keys (<<) are not supported"),
        (b"? [a]\n: 1\n", "a key must be plain text"),
        (b"[" * 2000, "nested too deeply"),
        (b"a: &a [*a]\n", "nested too deeply"),
        (BOMB, "more than 20000 values once its aliases are expanded"),
    ],
)
def test_a_file_that_is_no_scenario(file, content, expected):
    file.write_bytes(content)
    assert expected in _message(file)


def test_a_missing_file_names_what_there_is(tmp_path):
    with pytest.raises(BadInput, match=r"no such file.*did you mean 'quickstart'\? \(bundled: .*quickstart"):
        load(tmp_path / "quikstart.yaml")
    with pytest.raises(BadInput, match="is a directory"):
        load(tmp_path)


def test_a_gpu_where_there_is_none(file, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "federation.resources.gpus=1: torch finds no GPU" in _message(file, "federation.resources.gpus=1")
    assert "engine.device=cuda: torch finds no GPU" in _message(file, "engine.device=cuda")


def test_more_processors_than_there_are(file, monkeypatch):
    """Ray would wait for them for ever."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    said = "resources.cpus=64: 64, but this machine has 2; accepted: 1 to 2"
    assert said in _message(file, "federation.resources.cpus=64")
    swept = _message(file, "sweep.federation.resources.cpus=[2, 3]")
    assert "with federation.resources.cpus=3: federation.resources.cpus: 3, but this machine has 2" in swept
    assert load(file, ["federation.resources.cpus=2"])
    assert load(file, ["federation.resources.cpus=64"], here=False), "elsewhere there may be more"
    assert load(file, ["federation.resources.cpus=64"], rehearsed=False), "a run's report is read on any machine"


def test_gpus_beyond_those_there_are(file, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert load(file, ["federation.resources.gpus=0.5"])
    assert "gpus=3: this machine has 2; accepted: 0 to 2" in _message(file, "federation.resources.gpus=3")
    assert "gpus=1.5: 1.5 GPUs; accepted: a part of one, or a whole" in _message(file, "federation.resources.gpus=1.5")


def test_own_data_are_looked_for_beside_the_file_and_tried(file, tmp_path):
    file.write_text(GOOD.replace("name: mnist", "name: npz\n  path: own.npz"))
    assert _message(file) == "mine.yaml:6:9: data.path: own.npz: no such file"
    np.savez(tmp_path / "own.npz", x=np.zeros((20, 7)), y=np.zeros(20, dtype=int))
    assert "mine.yaml:6:9: data.path: " in _message(file)
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x=images, y=np.arange(20) % 2)
    assert load(file).data.path == str(tmp_path / "own.npz")


def test_a_layer_that_the_defense_refuses_is_found_before_the_run(file):
    message = _message(file, "model=resnet18", "defenses=[none, dp_sgd]")
    assert message.startswith("--set defenses=[none, dp_sgd]: defenses[1]: dp_sgd: layer 'stem.1' (BatchNorm2d)")


def test_a_factory_is_tried(file, tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n"
        "def small(*, input_shape, classes, width):\n"
        "    c, h, w = input_shape\n"
        "    hidden = nn.Linear(c * h * w, width)\n"
        "    return nn.Sequential(nn.Flatten(), hidden, nn.Dropout(0.5), nn.Linear(width, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    scenario = load(file, ["model={factory: 'own_nets:small', width: 8}"])
    assert scenario.model.spec() == {"factory": "own_nets:small", "width": 8, "dropout": None}
    assert "model.factory" in _message(file, "model={factory: 'own_nets:smal', width: 8}")
    assert "model" in _message(file, "model={factory: 'own_nets:small', widht: 8}")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("seeds=[9223372036854775808]", "seeds[0]: 9223372036854775808 should be less than 9223372036854775808"),
        ("data.image_size=100000", "5,000 images of 100000 x 100000 pixels take 46,566 GiB; accepted are 8"),
        ("federation.local={steps: 100000000000, share: weights}", "100,000,000,000 steps with a batch of 1 each take"),
        ("utility={rounds: 1, local: {steps: 9999999}}", "utility.local.steps: 9,999,999 steps with a batch of 32"),
        ("model.width=100000000000", "model 'mlp': more parameters than can be counted"),
        ("model.checkpoint=sub", "sub: is a folder, not a file"),
        ("model.checkpoint=loop", "loop: no such file"),
        ("model.checkpoint=~no_such_user/w", "~no_such_user/w: no such file"),
        ('model.checkpoint="a\\0b"', "a\\x00b': no such file"),
        ("model.checkpoint=" + "n" * 300, "nnn: no such file"),
        ("data={name: folder, path: mine.yaml}", "data.path: mine.yaml: is a file, not a folder"),
        ("data={name: npz, path: sub}", "sub: is a folder, not a file"),
        ("data={name: folder, path: loop}", "data.path: loop: no such folder"),
        ("data={name: folder, path: sub}", "sub: no sub-folder; expected one sub-folder for each class"),
        ("data={name: hub, dataset: ''}", "cannot be loaded as a Hugging Face data set"),
        ("data.test_fraction=0.99999", "data.test_fraction=0.99999: 0.99999 leaves no image of mnist to train on"),
        ("sweep.victims.clients=[1, .nan]", "sweep.victims.clients[1]: with victims.clients=nan"),
    ],
)
def test_values_beyond_reason_are_refused_at_once(file, tmp_path, monkeypatch, option, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "loop").symlink_to("pool")
    (tmp_path / "pool").symlink_to("loop")
    assert expected in _message(file, option)


def test_python_data_have_no_lines():
    with pytest.raises(BadInput, match=r"^scenario: attacks: missing key"):
        parse({"name": "mine"})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    line=st.sampled_from([i for i, text in enumerate(GOOD.splitlines()) if ": " in text and "- " not in text]),
    key=st.from_regex(r"[a-z]{3,8}_[a-z]{3,8}", fullmatch=True),
    blank=st.integers(0, 3),
)
@example(line=0, key="odd_key", blank=2)
def test_an_unknown_key_is_found_wherever_it_stands(file, line, key, blank):
    lines = GOOD.splitlines()
    indent = len(lines[line]) - len(lines[line].lstrip())
    lines[line:line] = ["# a remark"] * blank + [" " * indent + f"{key}: 1"]
    file.write_text("\n".join(lines))
    assert f"mine.yaml:{line + blank + 1}:{indent + 1}: " in _message(file)

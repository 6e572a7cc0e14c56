"""Where a model's first weights come from: `model.pretrain` and `model.checkpoint`, from the file to a cell's work."""

from __future__ import annotations

import json

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from fedsim import models
from fedsim.cli import main
from fedsim.errors import BadInput
from fedsim.runs.jobs import cell_key
from fedsim.scenario import every_cell, json_schema, load, parse

SMALL = {
    "name": "small",
    "data": "mnist",
    "model": {"name": "mlp", "width": 8, "dropout": 0.25},
    "attacks": ["null_mean"],
    "defenses": ["none", {"name": "dropout", "p": 0.5}, {"name": "clip", "norm": 1.0}],
}
FILE = """\
name: mine
data: mnist
model:
  name: mlp
  width: 8
attacks: [null_mean]
"""


def _small(model: dict | None = None, **keys):
    return parse({**SMALL, **keys, "model": {**SMALL["model"], **(model or {})}}, rehearsed=False)


def _state(width: int = 8) -> dict[str, torch.Tensor]:
    return models.build({"name": "mlp", "width": width}, input_shape=(1, 28, 28), classes=10, seed=5).state_dict()


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A good scenario beside a good checkpoint."""
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    save_file(_state(), tmp_path / "good.safetensors")
    return path


def test_without_either_key_the_work_says_nothing_of_a_start():
    fresh, null = every_cell(_small())[0], every_cell(_small({"pretrain": None, "checkpoint": None}))[0]
    assert fresh.work() == null.work()
    assert "start" not in fresh.work().to_dict()
    assert [fresh.state_before(round) for round in (1, 2, 5)] == ["init", "round_1", "round_4"]


def test_cells_that_differ_in_their_defense_start_alike_with_the_models_own_rate():
    cells = every_cell(_small({"pretrain": {"steps": 20}}))
    starts = [cell.work().to_dict()["start"] for cell in cells]
    assert starts == [{"pretrain": {"steps": 20, "batch_size": 32, "learning_rate": 0.1, "dropout": 0.25}}] * 3
    assert [cell.work().model["dropout"] for cell in cells] == [0.25, 0.5, 0.25]
    assert all("pretrain" not in cell.work().model for cell in cells)
    assert cells[0].state_before(1) == "pretrained"
    assert cells[0].state_before(2) == "round_1"


def test_a_sweep_compares_the_untrained_with_the_trained():
    scenario = _small(sweep={"model.pretrain": [None, {"steps": 20}, {"steps": 20, "learning_rate": 0.5}]})
    cells = every_cell(scenario)
    assert len({cell_key(cell) for cell in cells}) == len(cells) == 9
    assert [cell.state_before(1) for cell in cells] == ["init"] * 3 + ["pretrained"] * 6
    steps = every_cell(_small({"pretrain": {"steps": 1}}, sweep={"model.pretrain.steps": [10, 20]}))
    assert [cell.start().pretrain.steps for cell in steps[::3]] == [10, 20]


def test_a_pretrained_scenario_survives_the_trip_through_json():
    scenario = _small({"pretrain": {"steps": 20}})
    again = parse(json.loads(json.dumps(scenario.to_dict())), rehearsed=False)
    assert again.to_dict() == scenario.to_dict()
    assert again.digest() == scenario.digest() != _small().digest()


def test_a_checkpoint_lies_beside_the_file_and_its_content_is_part_of_the_key(file, tmp_path):
    [cell] = every_cell(load(file, ["model.checkpoint=" + str(tmp_path / "good.safetensors")]))
    file.write_text(FILE.replace("  width: 8", "  width: 8\n  checkpoint: good.safetensors"))
    [beside] = every_cell(load(file))
    key = cell_key(cell)
    assert key == cell_key(beside)
    assert cell.state_before(1) == "checkpoint"
    assert key != cell_key(every_cell(load(file, ["model.checkpoint=null"]))[0])
    save_file({name: value + 1 for name, value in _state().items()}, tmp_path / "good.safetensors")
    assert key != cell_key(every_cell(load(file))[0])


def test_a_sweep_over_checkpoints_looks_beside_the_file(file, tmp_path):
    other = {name: value + 1 for name, value in _state().items()}
    save_file(other, tmp_path / "other.safetensors")
    file.write_text(FILE + "sweep: {model.checkpoint: [null, good.safetensors, other.safetensors]}\n")
    cells = every_cell(load(file))
    assert [cell.state_before(1) for cell in cells] == ["init", "checkpoint", "checkpoint"]
    assert len({cell_key(cell) for cell in cells}) == 3


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("pretrain: @{batch_size: 8}", "model.pretrain.steps: missing key (accepted here: steps, batch_size, learning"),
        ("pretrain: {steps: @0}", "model.pretrain.steps: 0 should be greater than or equal to 1"),
        ("pretrain: {steps: @2.5}", "model.pretrain.steps: 2.5 should be a whole number"),
        ("pretrain: {steps: 5, learning_rate: @0}", "model.pretrain.learning_rate: 0 should be greater than 0"),
        ("pretrain: {steps: 5, @bach_size: 8}", "model.pretrain.bach_size: unknown key; did you mean 'batch_size'?"),
        ("pretrain: @500", "model.pretrain: 500 should be a"),
        ("@pretrian: {steps: 5}", "model.pretrian: unknown key; did you mean 'pretrain'?"),
        ("checkpoint: @nowhere.safetensors", "model.checkpoint: "),
        ("checkpoint: @3", "model.checkpoint: 3 should be text"),
        ("pretrain: {steps: 5}\n  checkpoint: @good.safetensors", "model.checkpoint: give either pretrain or check"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_block_is_located(file, block, expected):
    """The @ marks where the message must point."""
    marked = FILE.replace("  width: 8", f"  width: 8\n  {block}")
    before = marked[: marked.index("@")]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    file.write_text(marked.replace("@", ""))
    with pytest.raises(BadInput) as caught:
        load(file)
    message = str(caught.value).replace(f"{file.parent}/", "")
    assert message.startswith(f"mine.yaml:{line}:{column}: {expected}")
    assert "\n" not in message


def _renamed() -> dict[str, torch.Tensor]:
    return {name.replace("weight", "kernel"): value for name, value in _state().items()}


def _with(change) -> dict[str, torch.Tensor]:
    state = _state()
    name = next(iter(state))
    state[name] = change(state[name])
    return state


BAD_FILES = {
    "empty": (lambda path: path.write_bytes(b""), "not a safetensors file"),
    "text": (lambda path: path.write_text("weights"), "not a safetensors file"),
    "cut": (lambda path: path.write_bytes(save(_state())[:-9]), "not a safetensors file"),
    "pickle": (lambda path: torch.save(_state(), path), "not a safetensors file"),
    "folder": (lambda path: path.mkdir(), "is a folder, not a file"),
    "missing": (lambda path: None, "no such file"),
    "names": (lambda path: save_file(_renamed(), path), "lacks"),
    "nothing": (lambda path: save_file({}, path), "and 5 more, unlike the model's state"),
    "shapes": (lambda path: save_file(_state(16), path), "has shape (16, 784), the model's has (8, 784)"),
    "nan": (lambda path: save_file(_with(lambda t: t * float("nan")), path), "holds NaN or infinity"),
    "integers": (lambda path: save_file(_with(lambda t: t.long()), path), "is int64, the model's is float32"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_checkpoint_is_one_line_exit_2_and_nothing_written(kind, file, tmp_path, monkeypatch, capsys):
    spoil, said = BAD_FILES[kind]
    spoil(tmp_path / "bad.safetensors")
    file.write_text(FILE.replace("  width: 8", "  width: 8\n  checkpoint: bad.safetensors"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "500")
    before = sorted(tmp_path.iterdir())
    for words in (["check"], ["run"], ["run", "--dry-run"]):
        monkeypatch.setattr("sys.argv", ["fedsim", *words, "mine.yaml"])
        with pytest.raises(SystemExit) as caught:
            main()
        error = capsys.readouterr().err
        assert caught.value.code == 2, error
        assert len(error.strip().splitlines()) == 1, error
        assert "mine.yaml:6:15: model.checkpoint: " in error
        assert "bad.safetensors: " in error
        assert said in error
        assert sorted(tmp_path.iterdir()) == before


def test_a_checkpoint_that_fits_one_model_of_a_sweep_only_names_the_other(file):
    file.write_text(FILE.replace("  width: 8", "  width: 8\n  checkpoint: good.safetensors"))
    with pytest.raises(BadInput, match=r"sweep\.model\.width\[1\]: with model\.width=16: model\.checkpoint: .* shape"):
        load(file, ["sweep.model.width=[8, 16]"])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=200), at=st.integers(0, 400))
def test_a_spoilt_file_is_refused_or_loaded_but_never_half_loaded(tmp_path, noise, at):
    raw = save(_state())
    path = tmp_path / "spoilt.safetensors"
    path.write_bytes(raw[:at] + noise + raw[at + len(noise) :])
    model = models.build({"name": "mlp", "width": 8}, input_shape=(1, 28, 28), classes=10, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refused = ""
    try:
        models.restore(model, str(path))
    except BadInput as error:
        refused = str(error)
    assert len(refused.splitlines()) <= 1
    if refused:
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_file_that_changed_after_the_plan_is_refused(tmp_path):
    path = tmp_path / "own.safetensors"
    save_file(_state(), path)
    content = models.fingerprint(str(path))
    model = models.build({"name": "mlp", "width": 8}, input_shape=(1, 28, 28), classes=10, seed=0)
    models.restore(model, str(path), content=content)
    assert all(torch.equal(value, _state()[name]) for name, value in model.state_dict().items())
    save_file({name: value + 1 for name, value in _state().items()}, path)
    with pytest.raises(BadInput, match="has changed since the run was planned"):
        models.restore(model, str(path), content=content)


def test_a_factory_takes_both_keys_and_never_sees_them(tmp_path, monkeypatch):
    (tmp_path / "own_trained_nets.py").write_text(
        "from torch import nn\n"
        "def small(*, input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 4), nn.Dropout(0.5), nn.Linear(4, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    block = {"factory": "own_trained_nets:small"}
    [cell] = every_cell(parse({**SMALL, "defenses": ["none"], "model": {**block, "pretrain": {"steps": 3}}}))
    assert cell.work().model == {**block, "dropout": None}
    assert cell.start().pretrain.dropout is None
    model = models.build(block, input_shape=(1, 28, 28), classes=10)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    trained = {**block, "checkpoint": str(tmp_path / "own.safetensors")}
    assert every_cell(parse({**SMALL, "model": trained}))[0].state_before(1) == "checkpoint"


def test_the_json_schema_knows_the_keys():
    validator = jsonschema.Draft202012Validator(json_schema())
    for model in ({"pretrain": {"steps": 3}}, {"pretrain": None}, {"checkpoint": "a.safetensors"}):
        validator.validate({**SMALL, "model": {"name": "vit", **model}})
        validator.validate({**SMALL, "model": {"factory": "a.b:c", **model}})
    for model in ({"pretrain": {"steps": 0}}, {"pretrain": {}}, {"pretrain": 3}, {"checkpoint": 3}):
        assert not validator.is_valid({**SMALL, "model": {"name": "vit", **model}}), model


@pytest.mark.parametrize("mode", ["auto", "always", "never"])
def test_the_engine_compiles_by_one_of_three_words(mode):
    assert _small(engine={"compile": mode}).engine.compile == mode
    jsonschema.Draft202012Validator(json_schema()).validate({**SMALL, "engine": {"compile": mode}})


@pytest.mark.parametrize("mode", [True, "allways", None])
def test_the_engine_compiles_by_no_other(mode):
    with pytest.raises(BadInput, match=r"engine\.compile: .*auto.*always.*never"):
        _small(engine={"compile": mode})

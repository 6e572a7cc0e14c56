"""`fedsim verify` on the command line: its table, its exit codes, and what it refuses before anything is run."""

from __future__ import annotations

import json

import polars as pl
import pytest

from fedsim import api, scenario, table
from fedsim.files import write_json
from fedsim.reporting import entries
from fedsim.runs.directory import MARKER
from fedsim.runs.jobs import attack_specs
from fedsim.version import __version__

SMOKE = scenario.load("smoke", rehearsed=False)
VALUES = [30.0, 42.0]


def rows(values):
    """What the smoke scenario's run would hold of one attack on its undefended client."""
    cell = scenario.every_cell(SMOKE)[0]
    spec = attack_specs(SMOKE)[0]
    common = {
        "round": 1,
        "sample": 0,
        "seed": 0,
        "dataset": "mnist",
        "model": "mlp",
        "model_params": "{}",
        "setting": json.dumps(cell.setting(1), sort_keys=True),
        "dropout": 0.0,
        "defense": "none",
        "defense_params": json.dumps(list(cell.defense)),
        "batch_size": 1,
        "local_steps": 1,
        "update_kind": "gradient",
        "attack": spec["name"],
        "attack_params": json.dumps({key: value for key, value in spec.items() if key != "name"}, sort_keys=True),
        "oracle": False,
        **{f"threat_{name}": value for name, value in _threat().items()},
        "status": "ok",
        "device": "cpu",
        "environment": json.dumps({"torch": "9.9", "threads": 1}),
        "fedsim_version": __version__,
    }
    made = [{**common, "client": i, "psnr": v, "leaked_psnr": v > 19} for i, v in enumerate(values)]
    return table.frame(made)


def _threat():
    from attacks import ThreatModel

    return ThreatModel().as_dict()


@pytest.fixture
def path(tmp_path):
    marker = {"name": "smoke", "scenario": SMOKE.to_dict(), "command": "fedsim run smoke"}
    [path] = entries.submit(tmp_path / "entries", rows(VALUES), lambda job: None, marker)
    return path


@pytest.fixture
def repeated(monkeypatch):
    """In the place of the pipeline: a run directory with these scores, and the scenarios that were asked for."""
    asked = []

    def answering(values, **columns):
        def execute(narrowed, out, **_):
            asked.append(narrowed)
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / MARKER, {"name": narrowed.name, "scenario": narrowed.to_dict(), "command": "x"})
            rows(values).with_columns(**{key: pl.lit(value) for key, value in columns.items()}).write_parquet(
                out / "results.parquet"
            )

        monkeypatch.setattr(api, "execute", execute)
        return asked

    return answering


@pytest.mark.parametrize(
    ("values", "columns", "code", "said"),
    [
        ([30.0, 42.05], {}, 0, "agrees: 2 of 2 victims within 0.1 dB"),
        ([30.0, 43.0], {}, 1, "differs: 1 of 2 victims within 0.1 dB"),
        ([30.0, 43.0], {"environment": '{"torch": "8", "threads": 1}'}, 0, "torch: 9.9; here 8"),
        ([9.0, 9.0], {"environment": '{"torch": "8", "threads": 1}'}, 1, "other environment: 0 of 2"),
    ],
)
def test_the_outcome_is_said_and_is_the_exit_code(fedsim, path, repeated, values, columns, code, said):
    asked = repeated(values, **columns)
    before = path.read_bytes()
    found, out, _ = fedsim("verify", path)
    assert found == code
    assert said in out
    assert "seed 0, round 1, client 1, image 0" in out
    assert path.read_bytes() == before
    assert [one.victims.clients for one in asked] == [2]


def test_the_outcome_is_written_if_asked_for(fedsim, path, repeated):
    repeated([30.0, 43.0])
    assert fedsim("verify", path, "--write")[0] == 1
    assert fedsim("verify", path, "--write")[0] == 1
    assert [one.outcome for one in entries.read_one(path).verified] == ["differs", "differs"]
    assert entries.read(path.parent).problems == []


def test_an_interrupt_has_its_exit_code_and_leaves_the_entry_alone(fedsim, path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "execute", interrupted)
    before = path.read_bytes()
    code, _, error = fedsim("verify", path, "--write")
    assert (code, error.count("\n")) == (130, 1)
    assert path.read_bytes() == before


def test_what_is_refused_is_one_line_and_nothing_is_run(fedsim, path, repeated, tmp_path):
    asked = repeated(VALUES)
    old = tmp_path / "old.json"
    old.write_text('{"format": 1}')
    moved = tmp_path / "moved.json"
    moved.write_bytes(path.read_bytes())
    for arguments, said in [
        ([tmp_path / "nowhere.json"], "no such file; give an entry"),
        ([tmp_path], "is a folder, not a file; give an entry"),
        ([old], "no entry of format 2"),
        ([moved], "is called"),
        ([path, "--set", "attacks=[dlg]"], "no attack 'inverting_gradients'"),
        ([path, "--set", "model.width=9"], "no federation of the entry's setting"),
        ([path, "--set", "model.with=9"], "model.with"),
    ]:
        code, _, error = fedsim("verify", *arguments)
        assert (code, error.count("\n")) == (2, 1), error
        assert said in error
    assert asked == []

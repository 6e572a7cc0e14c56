"""`fedsim new`: what it writes works as it is."""

from __future__ import annotations

import json

import jsonschema
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from fedsim import scenario as scenarios
from fedsim.cli import app
from fedsim.errors import BadInput
from fedsim.scenario.new import SCHEMA_FILE, begin


def test_what_it_writes_is_valid_for_an_editor_and_passes_the_check(tmp_path):
    scenario, model, schema = begin("my-question.2", tmp_path)
    assert model.name == "my_question_2_model.py"  # a name that can be imported
    first = scenario.read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema=./{SCHEMA_FILE}"
    jsonschema.validate(YAML(typ="safe", pure=True).load(scenario), json.loads(schema.read_text()))
    loaded = scenarios.load(scenario)  # the factory is found beside it, whatever the working directory
    assert len(scenarios.every_cell(loaded)) == 3
    assert "@" not in scenario.read_text()


def test_nothing_is_overwritten(tmp_path):
    begin("mine", tmp_path)
    (tmp_path / "mine.yaml").write_text("my work")
    with pytest.raises(BadInput, match="is there already"):
        begin("mine", tmp_path)
    assert (tmp_path / "mine.yaml").read_text() == "my work"
    begin("another", tmp_path)  # the schema is not the user's work


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "a b"])
def test_a_name_that_is_none_writes_nothing(tmp_path, name):
    with pytest.raises(BadInput, match="not a name for a scenario"):
        begin(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_commands_stand_in_the_order_of_work_and_h_is_help():
    said = CliRunner().invoke(app, ["-h"], env={"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "80"}).output
    places = [said.index(f" {name} ") for name in ("new", "check", "run", "runs", "report", "leaderboard", "verify")]
    assert places == sorted(places)
    assert CliRunner().invoke(app, ["run", "-h"]).exit_code == 0
    assert "--show-completion" in said

"""Bad input is one line on standard error, exit code 2, and nothing written."""

from __future__ import annotations

import importlib
from importlib.machinery import PathFinder
from pkgutil import ModuleInfo

import numpy as np
import pytest

from defenses.registry import BrokenFile
from fedsim.cli import app, main
from fedsim.files import write_json

GOOD = """\
name: mine
description: A scenario to be spoilt.
data: {name: mnist}
model: {name: mlp, width: 32}
federation:
  clients: 2
  clients_per_round: 2
  rounds: 1
victims: {rounds: [1], clients: 2}
attacks: [inverting_gradients]
defenses: [none]
"""


@pytest.fixture
def cli(monkeypatch, tmp_path, capsys):
    """Run `fedsim` with these words in an empty directory; returns (exit code, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "500")

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["fedsim", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        return (0 if code is None else int(code)), capsys.readouterr().err

    return call


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    return path


def _spoilt(path, old, new):
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))


def test_the_unspoilt_scenario_is_good(cli, scenario):
    assert cli("check", "mine.yaml")[0] == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("width: 32", "widht: 32", ["mine.yaml:4:", "widht", "width"]),
        ("description:", "descripton:", ["mine.yaml:2:1", "descripton", "description"]),
        ("rounds: 1\n", "rounds: soon\n", ["mine.yaml:8:", "rounds"]),
        ("[inverting_gradients]", "[{name: inverting_gradients, iteratons: 3}]", ["mine.yaml:10:", "iterations"]),
        ("[inverting_gradients]", "[inverting_gradient]", ["mine.yaml:10:", "inverting_gradients"]),
        ("defenses: [none]", "defenses: [{name: dropout, p: 1.2}]", ["mine.yaml:11:", "1.2", "[0, 1)"]),
        ("defenses: [none]", "defenses: [{name: dropout, p: half}]", ["mine.yaml:11:", "p"]),
        ("clients: 2}", "clients: 3}", ["mine.yaml:9:", "3", "2"]),
        ("clients_per_round: 2", "clients_per_round: 5", ["mine.yaml:7:", "5", "2"]),
        ("rounds: [1]", "rounds: [2]", ["mine.yaml:9:", "2"]),
        ("{name: mnist}", "{name: npz, path: nowhere.npz}", ["mine.yaml:3:", "nowhere.npz"]),
        ("{name: mnist}", "{name: npz}", ["mine.yaml:3:", "path"]),
        ("rounds: 1\n", "rounds: 1\n  resources: {cpus: 1, gpus: 1}\n", ["mine.yaml:9:", "GPU"]),
        ("name: mine", "name: ../mine", ["mine.yaml:1:", "name"]),
    ],
)
def test_a_spoilt_scenario_is_one_line_with_its_place(cli, scenario, tmp_path, old, new, said):
    _spoilt(scenario, old, new)
    for command in ("check", "run"):
        code, error = cli(command, "mine.yaml")
        assert code == 2, error
        assert len(error.strip().splitlines()) == 1, error
        assert all(word in error for word in said), error
    assert not (tmp_path / "runs").exists()


def test_of_several_mistakes_the_first_is_said_and_the_others_are_counted(cli, scenario):
    _spoilt(scenario, "clients_per_round: 2\n  rounds: 1", "clients_per_round: soon\n  rounds: 0")
    assert cli("check", "mine.yaml")[1].startswith("fedsim: mine.yaml:7:22: federation.clients_per_round: ")
    assert cli("check", "mine.yaml")[1].strip().endswith("; 1 more mistake besides")
    scenario.write_text(scenario.read_text().replace("data: {", "date: {").replace("attacks:", "atacks:"))
    said = cli("check", "mine.yaml")[1]  # `attacks` is missing because it is misspelt: that counts once
    assert said.startswith("fedsim: mine.yaml:3:1: date: unknown key; did you mean 'data'?")
    assert said.strip().endswith("; 3 more mistakes besides")


def test_a_file_of_ones_own_that_cannot_be_imported_is_one_line(cli, scenario, monkeypatch):
    def broken(*options):
        raise BrokenFile(ModuleInfo(PathFinder, "own", False), NameError("name 'register' is not defined"))

    monkeypatch.setattr("fedsim.scenario.load", broken)
    assert cli("check", "mine.yaml") == (2, "fedsim: own: NameError: name 'register' is not defined\n")
    monkeypatch.setattr("fedsim.scenario.load", lambda *options: importlib.import_module("no_such_module"))
    monkeypatch.setattr("sys.argv", ["fedsim", "check", "mine.yaml"])
    with pytest.raises(ModuleNotFoundError):  # a fault of the installation is not the user's input
        main()


def test_an_npz_of_the_wrong_shape_is_named(cli, scenario, tmp_path):
    np.savez(tmp_path / "odd.npz", x=np.zeros((5, 3), np.uint8), y=np.zeros(5, np.int64))
    _spoilt(scenario, "{name: mnist}", "{name: npz, path: odd.npz}")
    code, error = cli("run", "mine.yaml")
    assert code == 2
    assert "odd.npz" in error
    assert "(5, 3)" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [("model.widht=3", "width"), ("seeds=[-1]", "seeds"), ("model", "="), ("attacks[7].iterations=3", "attacks")],
)
def test_a_bad_override_names_the_option(cli, scenario, override, said):
    code, error = cli("check", "mine.yaml", "--set", override)
    assert code == 2
    assert "--set" in error
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_a_missing_scenario_names_the_bundled_ones(cli):
    code, error = cli("run", "quikstart")
    assert code == 2
    assert "quickstart" in error


@pytest.mark.parametrize(
    "content", ["", "name: [", "name: a\nname: b\n", "- just\n- a list\n", "name: !!python/name:os.system\n"]
)
def test_yaml_that_is_no_scenario(cli, tmp_path, content):
    (tmp_path / "bad.yaml").write_text(content)
    code, error = cli("check", "bad.yaml")
    assert code == 2
    assert "bad.yaml" in error
    assert len(error.strip().splitlines()) == 1


def test_a_directory_of_another_scenario_is_left_alone(cli, scenario, tmp_path):
    other = tmp_path / "runs" / "mine"
    other.mkdir(parents=True)
    write_json(other / "fedsim-run.json", {"name": "theirs"})
    (other / "precious.txt").write_text("keep")
    for words in ([], ["--fresh"]):
        code, error = cli("run", "mine.yaml", *words)
        assert code == 2
        assert "theirs" in error
    assert (other / "precious.txt").read_text() == "keep"


def test_fresh_does_not_delete_a_directory_that_is_not_ours(cli, scenario, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "precious.txt").write_text("keep")
    code, error = cli("run", "mine.yaml", "--out", "photos", "--fresh")
    assert code == 2
    assert "not a fedsim run" in error
    assert (tmp_path / "photos" / "precious.txt").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [("127.0.0.1:1", "nothing answers there"), ("nowhere", "HOST:PORT"), ("host:99999", "HOST:PORT")],
)
def test_a_ray_address_is_checked_before_anything_is_written(cli, scenario, tmp_path, address, said):
    code, error = cli("run", "mine.yaml", "--ray-address", address)
    assert code == 2
    assert error.count("\n") == 1
    assert f"--ray-address {address}" in error
    assert said in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("command", [["report"], ["leaderboard"]])
def test_a_directory_that_is_no_run(cli, tmp_path, command):
    code, error = cli(*command, str(tmp_path))
    assert code == 2
    assert "not a fedsim run" in error


def test_an_unknown_kind_to_list(cli):
    code, error = cli("list", "atacks")
    assert code == 2
    assert "attacks" in error


def test_every_command_has_a_help_text():
    for command in app.registered_commands:
        assert command.callback.__doc__

"""What the documents show works: the README's scenario and code, the documented keys, the docstring example."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from attacks import Observation, ThreatModel
from fedsim import scenario as scenarios
from fedsim.cli import app

ROOT = Path(__file__).parents[2]
README = "\n".join((ROOT / name).read_text() for name in ("README.md", "docs/python.md", "docs/commands.md"))
"""And the pages on which it goes on."""

BLOCKS = [
    "\n".join(line[4:] for line in block.splitlines())
    for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", README, flags=re.M)
]


def _block(start: str) -> str:
    return next(block.strip() for block in BLOCKS if block.strip().startswith(start))


def test_the_scenario_of_the_readme_is_valid():
    parsed = scenarios.parse(YAML(typ="safe", pure=True).load(_block("name: my-question")))
    assert parsed.name == "my-question"


def test_the_attack_and_the_defense_of_the_readme_run(monkeypatch):
    """Each with the imports that it shows, as a file of its own has them."""
    for package in ("attacks", "defenses"):
        monkeypatch.setattr(f"{package}.base.register", lambda name: lambda cls: cls)
    attack, defense = {}, {}
    exec(compile(_block("import math"), "README", "exec"), attack)
    exec(compile(_block("from defenses.base"), "README", "exec"), defense)
    observation = Observation(state={}, update={}, input_shape=(1, 4, 4), classes=2, mean=(0.5,), std=(0.5,))
    answer = attack["Grey"]()(observation, ThreatModel(), torch.nn.Flatten())
    assert answer.images.shape == (1, 1, 4, 4)
    rounded = defense["RoundTo"](step=0.5).on_update({"w": torch.tensor([0.6])}, turn=None)
    assert rounded["w"].item() == 0.5


def test_an_attack_on_a_users_own_update_works_as_the_readme_shows():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 16), torch.nn.GELU(), torch.nn.Linear(16, 10))
    images, labels = torch.rand(1, 1, 28, 28), torch.tensor([3])
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    names = {"model": model, "gradients_by_name": gradients, "labels": labels}
    code = _block("import attacks").replace('"dropout_inversion"', '"dropout_inversion", iterations=20')
    ast.parse(code)
    exec(compile(code, "README", "exec"), names)
    assert names["reconstruction"].images.shape == (1, 1, 28, 28)


def test_every_command_that_the_readme_names_exists():
    named = set(re.findall(r"\bfedsim ([a-z-]+)\b", README)) - {"shows", "is", "and", "that", "drew"}
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {word for word in named if word in known} >= {
        "run",
        "report",
        "leaderboard",
        "picture",
        "attack",
        "list",
        "check",
    }
    for block in BLOCKS:
        for word in re.findall(r"^fedsim ([a-z-]+)", block, flags=re.M):
            assert word in known, word


def test_every_command_stands_on_the_page_of_commands():
    page = (ROOT / "docs" / "commands.md").read_text()
    visible = [command.name or command.callback.__name__ for command in app.registered_commands if not command.hidden]
    assert len(visible) > 20
    assert [name for name in visible if f"fedsim {name} " not in page.replace("\n", " ")] == []


def test_the_reference_is_what_the_command_writes():
    """The command stands on the page itself: a new member needs no row written by hand."""
    from fedsim.catalogue import markdown

    written = markdown(["attacks", "defenses", "optimizers", "schedules", "models", "decoders"])
    assert (ROOT / "docs" / "reference.md").read_text() == written


@pytest.mark.parametrize("kind", ["attacks", "defenses", "optimizers", "schedules", "models", "metrics"])
def test_what_a_list_says_of_a_member_is_a_whole_sentence(kind):
    from fedsim.catalogue import _KINDS

    assert [name for name, _, said in _KINDS[kind]() if not said or said.endswith((",", ";"))] == []


def test_every_key_of_a_scenario_is_documented():
    document = (ROOT / "docs" / "scenario.md").read_text()
    for key in scenarios.json_schema()["properties"]:
        assert f"`{key}`" in document, key


@pytest.mark.parametrize("package", ["attacks", "defenses"])
def test_a_users_folder_that_hides_ours_is_named_in_one_line(tmp_path, package):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    done = subprocess.run([sys.executable, "-c", "import fedsim"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert f"a folder named '{package}'" in last
    assert str(tmp_path) in last

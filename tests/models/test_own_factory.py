"""A user's own model: found beside the scenario, explained by file and line, and never reused once it is edited."""

from __future__ import annotations

import os
import sys

import pytest

from fedsim import models, paths
from fedsim.errors import BadInput
from fedsim.scenario import every_cell, load

SCENARIO = """\
name: mine
data: {name: mnist}
model: {factory: "%s"}
federation: {clients: 2}
attacks: [inverting_gradients]
"""

NET = """\
from torch import nn
def make(input_shape, classes):
    c, h, w = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, {width}), nn.Linear({width}, classes))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a scenario and a model, and the working directory elsewhere."""
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = list(sys.path), set(sys.modules)
    yield tmp_path / "project"
    sys.path[:] = before[0]
    for name in set(sys.modules) - before[1]:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    paths.look_beside(None)


def scenario(project, factory="own_net:make", **files):
    (project / "mine.yaml").write_text(SCENARIO % factory)
    for name, text in files.items():
        target = project / f"{name.replace('__', '/')}.py"
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    return project / "mine.yaml"


def refusal(path) -> str:
    with pytest.raises(BadInput) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


BROKEN = {
    "does not parse": ("def make(input_shape, classes)\n    return 1\n", 1, "expected ':' (SyntaxError at"),
    "misses a module": ("import os\nimport no_such\n", 2, "No module named 'no_such' (ModuleNotFoundError at"),
    "raises when imported": ("x = 1\n\ny = {}['key']\n", 3, "'key' (KeyError at"),
    "leaves when imported": ("import sys\nsys.exit('no')\n", 2, "no (SystemExit at"),
    "raises": ("def make(input_shape, classes):\n    raise OSError('first\\nsecond')\n", 2, "first second (OSError at"),
    "raises nothing to read": ("def make(input_shape, classes):\n    assert classes < 0\n", 2, ": AssertionError at"),
    "leaves": ("import sys\ndef make(input_shape, classes):\n    sys.exit(3)\n", 3, "3 (SystemExit at"),
    "misses a file": ("def make(input_shape, classes):\n    open('w.txt')\n", 2, "'w.txt' (FileNotFoundError at"),
    "raises in the forward pass": (
        "from torch import nn\nclass make(nn.Module):\n    def __init__(self, input_shape, classes):\n"
        "        super().__init__()\n    def forward(self, x):\n        return x.no_such_thing\n",
        6,
        "'no_such_thing' (AttributeError at",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_in_the_users_code_is_one_line_with_its_place(project, fault):
    code, line, said = BROKEN[fault]
    message = refusal(scenario(project, own_net=code))
    assert "mine.yaml:3:" in message
    assert f"{said} {project}/own_net.py:{line}" in message


def test_a_fault_in_a_module_beside_is_placed_there(project):
    message = refusal(scenario(project, own_net="import helper\n", helper="\n\n1 / 0\n"))
    assert "(ZeroDivisionError at" in message
    assert "own_net.py:1)" in message


def test_a_factory_that_is_not_there(project):
    message = refusal(scenario(project, "no_net:make"))
    assert "there is no module 'no_net' beside the scenario" in message
    assert str(project) in message
    assert os.getcwd() in message
    assert "has no function 'maek'" in refusal(scenario(project, "own_net:maek", own_net=NET.format(width=8)))
    assert "there is no module 'own_net.sub'" in refusal(scenario(project, "own_net.sub:make"))
    message = refusal(scenario(project, "json:make", json=NET.format(width=8)))  # ours is hidden: say by what
    assert f"has no function 'make' ({sys.modules['json'].__file__})" in message


def test_the_scenarios_folder_and_the_factorys_are_importable(project):
    net = "import helper\n" + NET.format(width=8)
    path = scenario(project, "nets.mine:make", nets__mine=net, nets__helper="import deeper\n", nets__deeper="")
    assert load(path).model.spec()["factory"] == "nets.mine:make"
    assert not list(project.rglob("__pycache__")), "something was left beside the user's files"


def test_a_relative_path_means_the_working_directory(project, tmp_path):
    path = scenario(project, own_net=NET.format(width="int(open('width.txt').read())"))
    (tmp_path / "elsewhere" / "width.txt").write_text("8")
    assert every_cell(load(path))


def test_a_process_that_was_told_steps_into_the_users_directory(project, tmp_path, monkeypatch):
    path = scenario(project, own_net=NET.format(width="int(open('width.txt').read())"))
    (tmp_path / "elsewhere" / "width.txt").write_text("8")
    load(path)
    with paths.telling():
        told = os.environ[paths.USER_PATH]
    assert paths.USER_PATH not in os.environ
    (tmp_path / "neutral").mkdir()
    monkeypatch.chdir(tmp_path / "neutral")
    monkeypatch.setenv(paths.USER_PATH, told)
    paths.look_beside(None)  # another process has loaded no scenario
    model = models.build({"factory": "own_net:make"}, input_shape=(1, 4, 4), classes=2, seed=0)
    assert model[1].out_features == 8
    assert os.getcwd() == str(tmp_path / "elsewhere")


def test_an_edited_model_is_other_work_and_is_imported_afresh(project):
    path = scenario(project, own_net="from helper import *\nimport json\n" + NET.format(width=8), helper="A = 1\n")
    seen = []
    for name, text in (
        ("own_net", "from helper import *\nimport json\n" + NET.format(width=8)),
        ("own_net", "from helper import *\nimport json\n" + NET.format(width=9)),
        ("helper", "A = 2\n"),
        ("unrelated", "A = 2\n"),
    ):
        (project / f"{name}.py").write_text(text)
        work = every_cell(load(path))[0].work()
        model = models.build(work.model, input_shape=(1, 4, 4), classes=2, seed=0)
        seen.append((work.source, model[1].out_features, sys.modules["helper"].A))
    assert [entry[1:] for entry in seen] == [(8, 1), (9, 1), (9, 2), (9, 2)]
    assert len({entry[0] for entry in seen[:3]}) == 3
    assert seen[2] == seen[3], "a file that the model does not import"


def test_the_same_module_name_in_two_folders_is_two_models(project, tmp_path):
    first = load(scenario(project, own_net=NET.format(width=8)))
    (tmp_path / "other").mkdir()
    second = load(scenario(tmp_path / "other", own_net=NET.format(width=9)))
    works = [every_cell(one)[0].work().source for one in (first, second, first)]
    assert works[0] == works[2] != works[1]


def test_what_is_installed_counts_by_its_own_file(project):
    assert len(models.source("torch.nn:Linear")) == 16

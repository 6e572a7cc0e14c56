"""What CONTRIBUTING shows is all it takes: its examples, written to files, pass the public path and the tables."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
BLOCK = r"((?:    .*\n|\n(?=\n*    ))+)"
FOUND = re.findall(rf"`((?:attacks|defenses)/\S+\.py)`:\n\n{BLOCK}", GUIDE)
FILES = {name: textwrap.dedent(code).rstrip() + "\n" for name, code in FOUND}
LINES = re.findall(rf"`([A-Z]+)` of `(tests/\S+\.py)`[^`]*?:\n\n{BLOCK}", GUIDE)
"""For each table that gets a line its name, its file, and the line, below what that needs."""

OVER_ALL = [
    str(path.relative_to(ROOT))
    for path in (ROOT / "tests").glob("*/test_*.py")
    if re.search(r"\b(attacks|defenses)\.names\(\)", path.read_text())
]
"""Where there are tests of each attack or each defense, whether or not there is a table as well."""

PUBLIC_PATH = """
import pytest
from fedsim.catalogue import markdown
from fedsim.scenario import every_cell, parse

SCENARIO = {
    "name": "guide",
    "data": {"name": "mnist"},
    "model": {"name": "mlp", "width": 16, "depth": 1},
    "federation": {"clients": 2, "local": {"share": "weights", "optimizer": {"name": "normalised_sgd"}}},
    "attacks": [{"name": "grey", "level": 0.5}],
    "defenses": ["none", {"name": "round_to", "step": 0.01}],
}

@pytest.mark.parametrize("name", ["grey", "round_to", "normalised_sgd"])
def test_listed(name):
    assert f"| `{name}` | " in markdown(["attacks", "defenses", "optimizers"])

def test_a_scenario_takes_them():
    parsed = parse(SCENARIO)
    assert len(every_cell(parsed)) == 2
    for part in (parsed.attacks[0], parsed.defenses[1][0], parsed.federation.local.optimizer):
        key, value = list(part.spec().items())[1]
        with pytest.raises(Exception, match=key):
            type(part).model_validate({**part.spec(), key: "many"})
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> str:
    """What pytest says of the examples, in a copy of the tree that holds them."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("attacks", "defenses", "fedsim", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    for name in ("fedsim/assets", "scenarios", "docs", "pyproject.toml"):
        (tree / name).symlink_to(ROOT / name)
    for name, code in FILES.items():
        assert not (tree / name).exists()
        (tree / name).write_text(code)
    for table, name, block in LINES:
        *needed, line = textwrap.dedent(block).strip().split("\n\n")
        before, opening, after = (tree / name).read_text().partition(f"\n{table} = ")
        bracket, rest = after.split("\n", 1)
        assert opening
        assert bracket in "[{"
        (tree / name).write_text("\n\n".join([before, *needed, f"{table} = {bracket}\n    {line}\n{rest}"]))
    (tree / "tests" / "test_public_path.py").write_text(PUBLIC_PATH)
    named = "grey or early_layers or round_to or NormalisedSGD or scaled"
    chosen = f"{named} or complete or every_defense or public_path or replay_of_what"
    options = ["-rA", "-q", "--no-header", "-p", "no:cacheprovider", "-k", chosen]
    tested = [*{*OVER_ALL, *(name for _, name, _ in LINES)}, "tests/test_public_path.py"]
    command = [sys.executable, "-m", "pytest", *options, *tested]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False).stdout


def test_the_guide_has_an_example_of_each_kind():
    assert sorted(Path(name).parts[:2] for name in FILES) == [
        ("attacks", "matching"), ("attacks", "null"),
        ("defenses", "client"), ("defenses", "stochastic"), ("defenses", "update"),
    ]  # fmt: skip
    assert [Path(file).stem for _, file, _ in LINES] == [
        "test_attack_table", "test_attack_table", "test_defense_table", "test_clients_round", "test_clients_round",
    ]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_an_example_is_written_as_the_gate_demands(name):
    """Ruff is satisfied, and every function says its types, as strict mypy wants them."""
    command = ["ruff", "check", "--config", str(ROOT / "pyproject.toml"), "--stdin-filename", name, "-"]
    command = [sys.executable, "-m", *command]
    found = subprocess.run(command, cwd=ROOT, input=FILES[name], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
    for function in ast.walk(ast.parse(FILES[name])):
        if isinstance(function, ast.FunctionDef):
            named = [*function.args.args, *function.args.kwonlyargs]
            assert function.returns is not None
            assert all(one.annotation for one in named if one.arg != "self"), function.name


@pytest.mark.parametrize(
    "passed",
    [
        "test_listed[grey]",
        "test_listed[round_to]",
        "test_listed[normalised_sgd]",
        "test_a_scenario_takes_them",
        "test_every_option_is_tried[grey]",
        "test_each_attack_achieves_its_outcome[grey none]",
        "test_each_attack_answers_a_whole_batch_or_declines_it[grey none]",
        "test_every_option_is_tried[early_layers]",
        "test_each_attack_achieves_its_outcome[early_layers none0]",
        "test_each_attack_speaks_for_itself[grey]",
        "test_each_attack_speaks_for_itself[early_layers]",
        "test_each_defense_acts_as_it_does_here_or_is_refused_with_the_reason[round_to]",
        "test_it_achieves_its_outcome[round_to]",
        "test_values_out_of_range_are_refused_in_one_line[round_to-parameters0]",
        "test_a_shared_gradient_too[mlp-round_to]",
        "test_a_shared_gradient_too[scaled-dropconnect]",
        "test_a_gradient_that_a_first_step_reveals_is_the_gradient[NormalisedSGD(epsilon=0.001)]",
        "test_replay_of_what_play_drew_is_play",
        "test_the_tables_are_complete",
        "test_the_table_is_complete",
        "test_the_table_has_every_defense",
    ],
)
def test_an_example_passes(outcome, passed):
    assert re.search(rf"^PASSED \S+::{re.escape(passed)}$", outcome, flags=re.M), outcome[-2000:]


def test_no_test_of_each_attack_or_defense_fails_for_an_example(outcome):
    """One file and the lines of the table are all that there is to write."""
    assert not re.findall(r"^(?:FAILED|ERROR) .*", outcome, flags=re.M), outcome[-4000:]

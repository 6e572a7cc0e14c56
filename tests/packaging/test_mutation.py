"""Mutants are what they say, and are named by it: `make mutants` draws the same ones after an edit elsewhere."""

from __future__ import annotations

import ast
import importlib
from argparse import Namespace
from pathlib import Path

import pytest

BRACKETS = str.maketrans("", "", "()")
FOLDER = Path(__file__).parents[2] / "benchmarks"
SOURCE = '''\
"""A number: 1."""
LIMIT = 3

@cached(size=4)
def grade(x: int = 5) -> "float":
    """Not 6."""
    if x < LIMIT and not x == 0:
        raise ValueError(f"{x + 1} is below 7")
    return [y / 2 for y in x if good(y)] or -1.5
'''


@pytest.fixture
def mutation(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("mutation")


def test_it_changes_what_is_computed_and_nothing_that_is_said(mutation):
    found = [(one.scope, one.change) for one in mutation.mutants("a.py", SOURCE)]
    assert sorted(found) == sorted(
        [
            ("", "3 → 4"),
            ("", "5 → 6"),
            ("grade", "x < LIMIT and (not x == 0) → x < LIMIT or not x == 0"),
            ("grade", "x < LIMIT → x <= LIMIT"),
            ("grade", "not x == 0 → x == 0"),
            ("grade", "x == 0 → x != 0"),
            ("grade", "0 → 1"),
            ("grade", "[y / 2 for y in x if good(y)] or -1.5 → [y / 2 for y in x if good(y)] and -1.5"),
            ("grade", "y / 2 → y * 2"),
            ("grade", "2 → 3"),
            ("grade", "good(y) → not good(y)"),
            ("grade", "-1.5 → 1.5"),
            ("grade", "1.5 → 3.0"),
        ]
    )


def test_a_mutant_differs_in_the_one_change_that_it_names(mutation):
    plain = ast.unparse(ast.parse(SOURCE))
    found = mutation.mutants("a.py", SOURCE)
    texts = [ast.unparse(mutation.mutated(SOURCE, one.number)) for one in found]
    assert len({plain, *texts}) == len(texts) + 1
    for one, text in zip(found, texts):
        before, after = one.change.split(" → ")
        places = [at for at in range(len(plain)) if plain[at:].startswith(before)]
        here = [plain[:at] + after + plain[at + len(before) :] for at in places]
        assert text.translate(BRACKETS) in [other.translate(BRACKETS) for other in here]


def test_what_runs_when_a_function_is_defined_belongs_to_the_import(mutation):
    lines = {one.change: one.first_line for one in mutation.mutants("a.py", SOURCE)}
    assert (lines["3 → 4"], lines["5 → 6"], lines["y / 2 → y * 2"]) == (0, 0, 4)


def test_the_sample_stays_where_lines_are_added(mutation):
    draw = importlib.import_module("mutants").draw
    longer = "import math\n\n\ndef other() -> None:\n    pass\n\n" + SOURCE
    drawn = [
        [one.key for one in draw(mutation.mutants("a.py", text), Namespace(seed=0, mutants=5))]
        for text in (SOURCE, longer)
    ]
    assert drawn[0] == drawn[1]
    other = draw(mutation.mutants("a.py", SOURCE), Namespace(seed=1, mutants=5))
    assert [one.key for one in other] != drawn[0]


def test_a_test_that_takes_all_the_time_does_not_keep_out_the_quick_ones(mutation):
    here = [["a.py", 4]]
    known = {"alone.py::long": (300.0, here), "many.py::quick": (0.1, here), "many.py::other": (0.1, [["b.py", 1]])}
    one = next(one for one in mutation.mutants("a.py", SOURCE) if one.first_line == 4)
    tests_of = importlib.import_module("mutants").tests_of
    assert tests_of(one, known, 40) == ["many.py::quick"]
    assert tests_of(one, known, 400) == ["alone.py::long", "many.py::quick"]


def test_files_that_speak_of_it_have_half_of_the_time(mutation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("about.py").write_text("from a import grade")
    others = {f"other_{number}.py::test": (0.5, [["a.py", 4]]) for number in range(40)}
    mine = {f"about.py::test_{number}": (0.5, [["a.py", 4]]) for number in range(40)}
    one = next(one for one in mutation.mutants("a.py", SOURCE) if one.first_line == 4)
    found = importlib.import_module("mutants").tests_of(one, {**others, **mine}, 20)
    # a second for each file besides: 1 + 18 / 2 of the first half; then 6 * 1.5, and in what is left no other file fits
    assert sum(test.startswith("about") for test in found) == 18 + 2
    assert sum(test.startswith("other") for test in found) == 6

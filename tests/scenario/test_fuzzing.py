"""A few hundred damaged and made-up files, the same ones each time; `make fuzz` tries thousands."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"
SPEC = importlib.util.spec_from_file_location("fuzz", HOME)
fuzz = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz)


def test_damaged_and_made_up_files_are_one_line_each(tmp_path):
    flaws = []
    for number, case in zip(range(250), fuzz.cases(2026)):
        folder = tmp_path / str(number)
        folder.mkdir()
        flaws.append(fuzz.flaw(case, folder))
    assert [flaw for flaw in flaws if flaw] == []


def test_the_same_seed_gives_the_same_cases():
    first, second = (list(zip(range(20), fuzz.cases(7))) for _ in range(2))
    assert [case[:2] for _, case in first] == [case[:2] for _, case in second]


@pytest.mark.parametrize("fault", [KeyError("x"), TypeError("x"), RecursionError(), ValueError("a\nb")])
def test_what_must_not_come_out_of_a_reader_is_a_flaw(tmp_path, fault):
    def read(path):
        raise fault

    assert fuzz.flaw(("record", b"{}", read), tmp_path)
    assert fuzz.flaw(("record", b"{}", lambda path: (path.parent / "more").write_text("x")), tmp_path)
    assert fuzz.flaw(("record", b"{}", lambda path: None), tmp_path) is None

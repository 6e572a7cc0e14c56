"""A few hundred damaged and made-up files, the same ones each time; `make fuzz` tries thousands."""

from __future__ import annotations

import importlib.util
import os
import random
import time
from contextlib import nullcontext
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
    assert fuzz.flaw(("record", b"{}", lambda path: None), tmp_path) is None


@pytest.mark.parametrize("does", ["write_bytes", "mkdir", "unlink", "rename"])
def test_what_is_written_changed_or_taken_away_anywhere_is_a_flaw(tmp_path, does):
    place = tmp_path / "elsewhere"
    if does in ("unlink", "rename"):
        place.touch()
    given = {"write_bytes": [b"x"], "rename": [tmp_path / "other"]}.get(does, [])
    (tmp_path / "case").mkdir()
    found = fuzz.flaw(("record", b"{}", lambda path: getattr(place, does)(*given)), tmp_path / "case")
    assert found is not None
    assert str(place) in found
    (tmp_path / "read").touch()
    assert fuzz.flaw(("record", b"{}", lambda path: (tmp_path / "read").read_bytes()), tmp_path / "case") is None


def test_a_traceback_that_a_library_prints_is_a_flaw(tmp_path):
    def read(path):
        os.write(2, b"thread 'a' panicked at b.rs:1\n")
        raise ValueError("damaged")

    assert fuzz.flaw(("record", b"{}", read), tmp_path) == "record: prints thread 'a' panicked at b.rs:1"


def test_a_damaged_table_is_read_without_a_panic(tmp_path):
    """Of this one polars' own reader panics, and prints so."""
    assert fuzz.flaw(fuzz._rows(random.Random(87)), tmp_path) is None


def test_what_computes_too_long_is_ended_and_a_flaw(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 0.1)

    def read(path):
        while time.process_time() < ended:
            pass

    ended = time.process_time() + 30
    assert fuzz.flaw(("record", b"{}", read), tmp_path) == "record: 1 s"
    assert time.process_time() < ended - 20


KINDS = [one for name, one in sorted(vars(fuzz).items()) if getattr(one, "__annotations__", {}).get("return") == "Case"]


@pytest.mark.filterwarnings("ignore::fedsim.errors.Caution")
@pytest.mark.parametrize(
    "kind", [one for one in KINDS if one.__name__ != "_scenario_made"], ids=lambda one: one.__name__
)
def test_what_is_damaged_is_whole_before(tmp_path, kind, monkeypatch):
    """A fuzzer of files that are refused anyway would find nothing."""
    monkeypatch.setattr(fuzz, "mutated", lambda content, draw: content)
    monkeypatch.setattr(fuzz, "_change", lambda whole, draw: None)
    for seed in range(3):
        what, content, read = kind(random.Random(seed))
        path = tmp_path / str(seed) / fuzz.PLACES.get(what, "file")
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is called") if what == "entry" else nullcontext():
            read(path)  # but for its name, which is a digest of its content


def test_what_the_schema_alone_makes_is_sometimes_a_scenario(tmp_path):
    accepted = 0
    for seed in range(20):
        _, content, read = fuzz._scenario_made(random.Random(seed))
        (tmp_path / "s.yaml").write_bytes(content)
        try:
            read(tmp_path / "s.yaml")
            accepted += 1
        except fuzz.FedsimError:
            pass
    assert accepted

"""A run that has trained and attacked nothing yet: commands that show it say so, and write no empty file."""

from __future__ import annotations

import pytest
from made_up_run import make_results

from fedsim.files import write_json
from fedsim.version import __version__


@pytest.fixture
def runs(tmp_path):
    """One without a row, one with some."""
    for name, rows in (("none", make_results().head(0)), ("some", make_results())):
        (tmp_path / name).mkdir()
        rows.write_parquet(tmp_path / name / "results.parquet")
        marker = {"name": name, "scenario": {"name": name}, "command": "", "version": __version__}
        write_json(tmp_path / name / "fedsim-run.json", marker)
        (tmp_path / name / "results.parquet").touch()
    return tmp_path


@pytest.mark.parametrize("words", [("table", "--md"), ("table", "--latex"), ("picture", "--png", "x.png")])
def test_a_table_or_picture_of_nothing_is_refused(runs, monkeypatch, fedsim, words):
    monkeypatch.chdir(runs)
    code, said, error = fedsim(words[0], "none", *words[1:])
    assert (code, said) == (2, "")
    assert error == "fedsim: none: no results yet; go on with it by `fedsim run`\n"
    assert not (runs / "x.png").exists()


def test_the_defenses_of_nothing_are_none_and_of_something_have_a_legend(runs, fedsim):
    assert fedsim("defenses", runs / "none")[:2] == (0, "There are no results yet.".ljust(25) + "\n")
    code, said, _ = fedsim("defenses", runs / "some")
    assert code == 0
    assert "bytes: of an update, over those of an undefended client." in said

"""Commands that write a file do not write over one whose name says that it is of another kind."""

from __future__ import annotations

import pytest
from made_up_run import make_results

from fedsim.files import write_json
from fedsim.version import __version__

PLACE = "run/results.parquet"


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        (("report", "run", "--html", PLACE), ".html"),
        (("leaderboard", "run", "--html", PLACE), ".html"),
        (("leaderboard", "run", "--json", PLACE), ".json"),
        (("defenses", "run", "--markdown", PLACE), ".md"),
        (("table", "run", "--out", PLACE), ".md"),
        (("table", "run", "--latex", "--out", PLACE), ".tex"),
        (("table", "run", "--html", "--out", PLACE), ".html"),
        (("results", "run", "--csv", PLACE), ".csv"),
        (("results", "run", "--json", PLACE), ".json"),
        (("picture", "run", "--png", PLACE), ".png"),
        (("animate", "run", "job", "--out", PLACE), ".gif"),
        (("train-decoder", "mnist", "--out", PLACE), ".safetensors"),
    ],
)
def test_it_is_refused_and_the_file_stays(tmp_path, monkeypatch, fedsim, words, ending):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    make_results().write_parquet(tmp_path / PLACE)
    marker = {"name": "run", "scenario": {"name": "run"}, "command": "", "version": __version__}
    write_json(tmp_path / "run" / "fedsim-run.json", marker)
    before = (tmp_path / PLACE).read_bytes()
    code, said, error = fedsim(*words)
    assert (code, said) == (2, "")
    assert error == f"fedsim: {PLACE}: what is written there is {ending[1:].upper()}; give it a name in {ending}\n"
    assert (tmp_path / PLACE).read_bytes() == before

"""Whatever a command writes: where the system refuses it is one line and exit code 2, and nothing is half written."""

from __future__ import annotations

import errno
import os

import pytest
from made_up_run import SCENARIO, make_results

from fedsim.cli import main
from fedsim.runs.directory import claimed
from fedsim.runs.results import write

COMMANDS = {
    "report": ["report", "run", "--html", "{to}"],
    "leaderboard as a page": ["leaderboard", "run", "--html", "{to}"],
    "leaderboard as JSON": ["leaderboard", "run", "--json", "{to}"],
    "defenses": ["defenses", "run", "--markdown", "{to}"],
    "results as CSV": ["results", "run", "--csv", "{to}"],
    "results as JSON": ["results", "run", "--json", "{to}"],
    "figures": ["figures", "run", "--out", "{to}"],
    "submit": ["leaderboard", "--submit", "run", "--entries", "{to}"],
    "table": ["table", "run", "--latex", "{to}"],
    "decoder": ["train-decoder", "mnist", "--out", "{to}"],  # before it is trained
}

FULL = "new"
"""Where the disk takes no more."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("refused")
    marker = {"name": "made-up", "scenario": SCENARIO | {"metrics": ["psnr"]}, "version": "0", "command": "fedsim run"}
    with claimed(place / "run", marker, fresh=False) as directory:
        write(directory, make_results())
    (place / "in-the-way").write_text("a file")
    return place


@pytest.fixture
def cli(monkeypatch, place, capsys):
    def call(*words: str) -> tuple[int, str]:
        monkeypatch.chdir(place)
        monkeypatch.setattr("sys.argv", ["fedsim", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capsys.readouterr().err

    return call


def _full(monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fedsim.files.os.replace", refuse)


@pytest.mark.parametrize(
    ("command", "to"),
    [
        *((command, "in-the-way/below") for command in COMMANDS),
        *(("results as CSV", to) for to in ("/proc/nowhere/at/all", "n" * 300, FULL)),
        ("report", FULL),
        ("decoder", "/proc/x.safetensors"),
        ("decoder", "run"),
    ],
)
def test_it_is_one_line_and_nothing_is_left(cli, place, monkeypatch, command, to):
    before = sorted(place.rglob("*"))
    if to == FULL:
        _full(monkeypatch)
    code, said = cli(*(word.format(to=to) for word in COMMANDS[command]))
    assert code == 2, said
    assert said.count("\n") == 1
    assert said.startswith("fedsim: ")
    assert ".tmp-" not in said
    assert [path for path in sorted(place.rglob("*")) if path not in before and path.is_file()] == []

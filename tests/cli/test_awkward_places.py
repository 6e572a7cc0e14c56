"""Directories of every name, full disks, places that cannot be written: it works, or is one line and leaves nothing."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest

from fedsim import table
from fedsim.cli import main
from fedsim.errors import BadInput
from fedsim.files import write_text
from fedsim.runs import cluster
from fedsim.runs.directory import RunDirectory, claimed
from fedsim.runs.reading import read_table
from fedsim.runs.results import write

SCENARIO = """\
name: mine
model: {name: mlp, width: 8}
federation: {clients: 2}
attacks: []
"""
NAMES = ["a [v1] b", "a[/b]", "*", "?", "ünïcode ✓", ":smile:", "a%20b#c", "{x}"]


@pytest.fixture
def cli(monkeypatch, tmp_path, capsys):
    """Run `fedsim` with these words in an empty directory; returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(SCENARIO)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fedsim", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        return (int(caught.value.code or 0), *capsys.readouterr())

    return call


@pytest.mark.parametrize("name", NAMES)
def test_a_results_file_is_found_by_its_name(tmp_path, name):
    for other in ("a v b", "ab"):  # what a pattern would find instead
        (tmp_path / other).mkdir()
        (tmp_path / other / "results.parquet").write_bytes(b"not a table")
    with claimed(tmp_path / name, {"name": "mine"}, fresh=False) as directory:
        params = {"model_params": "{}", "defense_params": "[]", "attack": "cut", "attack_params": "{}"}
        write(directory, table.frame([{"run": name, "status": "ok", **params}]))
    assert read_table(directory.results)["run"].to_list() == [name]
    assert RunDirectory(tmp_path / name).marker() == {"name": "mine"}


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_printed_as_it_is(cli, tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(SCENARIO)
    assert cli("check", f"{name}.yaml") == (0, f"{name}.yaml: ok, 1 cells\n", "")
    code, _, error = cli("report", name)
    assert code == 2
    assert error == f"fedsim: {name}: no such directory, so not a fedsim run (no fedsim-run.json in it)\n"


@pytest.mark.parametrize("out", ["mine.yaml/below", "/proc/no/such/place", "n" * 300, "runs/" + "n" * 250])
def test_a_place_that_cannot_be_written(cli, tmp_path, out):
    code, _, error = cli("run", "mine.yaml", "--out", out)
    assert code == 2
    assert error.startswith(f"fedsim: {out[:100]}")  # of a long message the middle is left out
    assert " cannot be the run directory: " in error
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.yaml", "runs"}
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize("content", ["{}", "[]", "3", "{", '{"name": "mine"}'])
def test_a_damaged_marker_is_one_line(cli, tmp_path, content):
    with claimed(tmp_path / "run", {"name": "mine"}, fresh=False) as directory:
        write(directory, table.empty())
    (tmp_path / "run" / "fedsim-run.json").write_text(content)
    code, _, error = cli("report", "run")
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("fedsim: run/fedsim-run.json: damaged")


class FullDisk:
    """A disk on which only small files still fit."""

    def __init__(self, monkeypatch, room: int) -> None:
        opened = os.fdopen

        def fdopen(handle, mode):
            file = opened(handle, mode)
            written = file.write

            def write(content):
                if len(content) > room:
                    written(content[:room])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return written(content)

            return _Writer(file, write)

        monkeypatch.setattr("fedsim.files.os.fdopen", fdopen)


class _Writer:
    def __init__(self, file, write) -> None:
        self.file, self.write = file, write

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")
    FullDisk(monkeypatch, room=2)
    with pytest.raises(OSError, match="No space left") as caught:
        write_text(tmp_path / "a.txt", "newer")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_disk_that_is_full_before_the_run_begins(cli, tmp_path, monkeypatch):
    FullDisk(monkeypatch, room=10)
    code, _, error = cli("run", "mine.yaml", "--out", "new")
    assert (code, error) == (
        2,
        "fedsim: new: cannot be the run directory: No space left on device; choose another --out\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_two_runs_on_one_directory(cli, tmp_path):
    with claimed(tmp_path / "run", {"name": "mine"}, fresh=False):
        code, _, error = cli("run", "mine.yaml", "--out", "run")
    assert code == 2
    assert error == "fedsim: run: another fedsim is running here; wait for it, or choose another --out\n"


def test_a_file_that_cannot_be_written_is_one_line(cli, tmp_path, monkeypatch):
    with claimed(tmp_path / "run", {"name": "mine"}, fresh=False) as directory:
        write(directory, table.empty())
    code, _, error = cli("results", "run", "--csv", "mine.yaml/below.csv")
    assert code == 2
    assert error.startswith("fedsim: mine.yaml")
    assert error.count("\n") == 1
    FullDisk(monkeypatch, room=10)
    code, _, error = cli("results", "run", "--csv", "new.csv")
    assert (code, error) == (2, "fedsim: new.csv: No space left on device\n")
    assert not (tmp_path / "new.csv").exists()


@pytest.mark.parametrize("length", [10, 200])
def test_ray_gets_a_directory_whose_sockets_have_names_that_fit(tmp_path, monkeypatch, length):
    base = tempfile.mkdtemp(dir="/tmp")
    usual = os.path.join(base, "x" * length)
    os.mkdir(usual)
    monkeypatch.setattr(tempfile, "tempdir", usual)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    try:
        chosen = cluster._sessions_directory()
        assert chosen == (f"{usual}/ray" if length == 10 else "/tmp/ray")
        monkeypatch.setattr(cluster.os, "access", lambda path, mode: path == usual)
        if length == 200:
            with pytest.raises(BadInput, match=r"TMPDIR .*too long for the sockets.*; set RAY_TMPDIR to a short"):
                cluster._sessions_directory()
    finally:
        os.rmdir(usual)
        os.rmdir(base)

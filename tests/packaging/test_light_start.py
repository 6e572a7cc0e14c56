"""What answers at once imports nothing heavy: neither PyTorch nor Ray nor Flower, nor what these bring."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fedsim import memo

DATA = ("flwr_datasets", "datasets", "pandas")
HEAVY = (*DATA, "torch", "sympy", "ray", "flwr", "scipy", "matplotlib", "plotly", "opacus")
RUN = """
import json, sys
from fedsim.cli import main
sys.argv = ["fedsim", *json.loads(sys.argv[1])]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
sys.stderr.write(json.dumps([name for name in sys.modules if "." not in name]))
"""


def imported(*words, cache):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", RUN, json.dumps(words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout, set(json.loads(done.stderr.splitlines()[-1])) & set(HEAVY)


def test_help_imports_nothing_heavy(tmp_path):
    for words in (["--help"], ["run", "--help"], ["--version"]):
        assert imported(*words, cache=tmp_path)[1] == set()


def test_lists_and_schema_import_nothing_heavy_once_they_were_made(tmp_path):
    for words in (["list", "defenses"], ["schema"]):
        made = imported(*words, cache=tmp_path)[0]
        assert imported(*words, cache=tmp_path) == (made, set())


def test_a_check_imports_neither_ray_nor_flower_nor_a_compiler(tmp_path):
    """DP-SGD is among what it tries. `torch.func` imports PyTorch's compiler, which imports sympy."""
    assert imported("check", "defenses", cache=tmp_path)[1] == {"torch"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fedsim"


def test_what_is_kept_is_made_anew_where_a_source_has_changed(cache, monkeypatch):
    assert memo.remembered("a", lambda: [1]) == [1]
    assert memo.remembered("a", lambda: [2]) == [1]
    monkeypatch.setattr(memo, "_source", lambda: "another")
    assert memo.remembered("a", lambda: [2]) == [2]


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"of": 1}', "null"])
def test_what_is_damaged_is_made_anew(cache, damaged):
    memo.remembered("a", lambda: [1])
    (cache / "a.json").write_text(damaged)
    assert memo.remembered("a", lambda: [2]) == [2]


def test_without_a_cache_folder_everything_is_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [memo.remembered("a", lambda: 1), memo.remembered("a", lambda: 2)] == [1, 2]
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no home
    assert [memo.remembered("a", lambda: 1), memo.remembered("a", lambda: 2)] == [1, 2]

"""Real runs where the system gives little: files, shared memory, a home, a short TMPDIR, room on the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.runs.reading import read_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

SCENARIO = """\
name: tiny
model: {name: mlp, width: 64}
federation: {clients: 3}
attacks: [{name: inverting_gradients, iterations: 20}]
metrics: [mse, psnr]
defenses: [none, {name: clip, norm: 1.0}]
"""
FEDSIM = f"{sys.executable} -m fedsim.cli run tiny.yaml --out"
VICTIM = ["defense", "attack", "client"]


def _namespaces() -> bool:
    """Whether this system lets us mount something for ourselves."""
    if shutil.which("unshare") is None:
        return False
    mount = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


alone = pytest.mark.skipif(not _namespaces(), reason="this system lets nobody mount anything")


def _shell(place: Path, script: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    (place / "tiny.yaml").write_text(SCENARIO)
    told = {**os.environ, **{name: value for name, value in environment.items() if value is not None}}
    for name in environment:
        if environment[name] is None:
            told.pop(name, None)
    how = {"cwd": place, "env": told, "capture_output": True, "text": True, "timeout": 2500}
    return subprocess.run(["bash", "-c", script], check=False, **how)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """The table of an ordinary run."""
    place = tmp_path_factory.mktemp("usual")
    done = _shell(place, f"{FEDSIM} run")
    assert done.returncode == 0, done.stderr
    return _scores(place / "run" / "results.parquet")


def _scores(path: Path):
    return read_table(path).sort(VICTIM).select([*VICTIM, "status", "mse", "psnr"])


LONG = "x" * 150
SYSTEMS = {
    "256 open files": (f"ulimit -n 256; {FEDSIM} run", {}),
    "no home": (f"{FEDSIM} run", {"HOME": None}),
    "a long TMPDIR": (f"mkdir {LONG}; TMPDIR=$PWD/{LONG} {FEDSIM} run", {}),
    "64 MB of shared memory": (
        f"unshare -m bash -c 'mount -t tmpfs -o size=64m tmpfs /dev/shm && {FEDSIM} run'",
        {},
    ),
}


@pytest.mark.parametrize("system", [pytest.param(name, marks=[alone] if "shared" in name else []) for name in SYSTEMS])
def test_it_works_all_the_same(tmp_path, usual, system):
    script, environment = SYSTEMS[system]
    done = _shell(tmp_path, script, **environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert _scores(tmp_path / "run" / "results.parquet").equals(usual)


@alone
@pytest.mark.parametrize("size", ["4k", "64k", "400k", "800k", "1200k"])
def test_a_disk_that_fills_up_at_any_stage_is_said_and_the_run_goes_on_when_there_is_room(tmp_path, usual, size):
    script = f"""
        mkdir disk && mount -t tmpfs -o size={size} tmpfs disk
        {FEDSIM} disk/run 2> first.txt; echo $? >> codes.txt
        mount -o remount,size=200m disk
        {FEDSIM} disk/run 2> second.txt; echo $? >> codes.txt
        cp disk/run/results.parquet . ; ls -a disk disk/run disk/run/* > left.txt
    """
    (tmp_path / "script").write_text(script)
    _shell(tmp_path, "unshare -m bash script")
    first, second = (tmp_path / "codes.txt").read_text().split()
    said = (tmp_path / "first.txt").read_text()
    assert first in ("1", "2"), said
    assert "Traceback" not in said
    assert "No space left on device" in said.replace("\n", " ")
    assert second == "0", (tmp_path / "second.txt").read_text()
    assert _scores(tmp_path / "results.parquet").equals(usual)
    assert ".tmp-" not in (tmp_path / "left.txt").read_text()

"""SIGKILL at random moments, of the driver, the simulation, a client's process and an attack's: nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import fedsim

KILLS = 20
SALT = "0123456789abcdef" * 2
VICTIM = ["cell", "defense", "attack", "attack_params", "seed", "round", "client", "sample"]
SCORES = ["mse", "psnr", "attack_loss"]
KINDS = {"simulation": "fedsim.federation.simulate", "client": "ray::ClientAppActor", "attack": "ray::compute"}


def _start(out: Path, mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "fedsim.cli", "run", "smoke", "--salt", SALT, "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"FEDSIM_TEST_MARK": mark},
    )


def _processes(mark: str, kind: str) -> list[int]:
    """Those of a kind that came of a run, by a mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"FEDSIM_TEST_MARK={mark}".encode() in (process / "environ").read_bytes()
            if marked and KINDS[kind] in (process / "cmdline").read_bytes().replace(b"\0", b" ").decode():
                found.append(int(process.name))
        except OSError:  # it has just ended
            continue
    return found


def _table(out: Path) -> pl.DataFrame:
    rows = fedsim.Run(out).results.sort(VICTIM)
    assert not rows.select(VICTIM).is_duplicated().any()
    return rows.select(VICTIM + SCORES)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_twenty_kills_lose_nothing_and_do_nothing_twice(tmp_path):
    draw, killed = random.Random(0), []
    expected = fedsim.run("smoke", out=tmp_path / "undisturbed" / "smoke", salt=SALT)
    table = _table(expected.path)
    number = 0
    while len(killed) < KILLS:
        number += 1
        out, finished = tmp_path / str(number) / "smoke", dict[Path, int]()
        while True:
            process = _start(out, str(out))
            while not _ends_within(process, draw.uniform(0, 60) if len(killed) < KILLS else 3600):
                kind = draw.choice(["driver", *KINDS])
                those = [process.pid] if kind == "driver" else _processes(str(out), kind)
                if those:
                    os.kill(draw.choice(those), signal.SIGKILL)
                    killed.append(kind)
            finished |= {path: path.stat().st_mtime_ns for path in out.glob("jobs/*/job.json") if path not in finished}
            if process.returncode == 0:
                break
        assert {path: path.stat().st_mtime_ns for path in finished} == finished
        assert _table(out).equals(table)
    assert set(killed) == {"driver", *KINDS}


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True

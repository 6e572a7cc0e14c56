"""A scenario from file to table, report and leaderboard, through real Flower, Ray and processes."""

from __future__ import annotations

import doctest
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

import fedsim
import fedsim.api
from fedsim import table
from fedsim.reporting import entries
from fedsim.runs.cluster import check_address
from fedsim.runs.directory import RunDirectory

SALT = "0123456789abcdef" * 2
VICTIM = ["cell", "defense", "attack", "attack_params", "seed", "round", "client", "sample"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A salted run: what is repeated of it later, by whichever way, must draw with the same salt."""
    return fedsim.run("smoke", out=tmp_path_factory.mktemp("runs") / "smoke", salt=SALT)


def test_every_victim_has_one_row_per_attack_and_label(run):
    results = run.results
    assert results.columns == list(table.SCHEMA)
    assert results.select(VICTIM).is_duplicated().sum() == 0
    assert results.height == 2 * 4 * 2  # defenses, attacks (two named, two floors), clients
    assert set(results["status"]) == {"ok"}
    assert set(results["attack"]) == {"inverting_gradients", "dropout_inversion", "null_mean", "null_random"}


def test_the_example_in_the_docstring_of_run(run, tmp_path):
    """On a copy of the run, which then has nothing left to do."""
    shutil.copytree(run.path, tmp_path / "smoke")
    [example] = doctest.DocTestFinder(recurse=False).find(
        fedsim.api.run, globs={"getfixture": lambda name: tmp_path, "fedsim": fedsim}
    )
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed == 0


def test_rows_carry_scores_threat_model_and_effective_dropout(run):
    results = run.results
    assert results.select(pl.col("mse", "psnr", "ssim", "lpips", "seconds").null_count()).sum_horizontal().item() == 0
    assert set(results.filter(pl.col("defense") == "none")["dropout"]) == {0.0}
    assert set(results.filter(pl.col("defense") != "none")["dropout"]) == {0.25}
    assert set(results["threat_labels"]) == {"known"}
    assert set(results.select("attack", "letter", "beyond").iter_rows()) == {
        *((attack, "C", "") for attack in ("inverting_gradients", "dropout_inversion")),
        *((floor, "D", "") for floor in ("null_mean", "null_random")),
    }
    assert set(results.filter(pl.col("attack") == "null_random")["threat_auxiliary_data"]) == {"public"}
    assert set(results["model_state"]) == {"init"}
    assert {json.loads(said)["threads"] for said in results["environment"]} == {1}
    dropped = results.filter((pl.col("attack") == "dropout_inversion") & (pl.col("dropout") > 0))
    assert dropped["mask_accuracy"].null_count() == 0


def test_pictures_are_the_ones_the_rows_were_scored_on(run):
    for row in run.results.iter_rows(named=True):
        original, reconstruction = run.pictures(row["job"])
        left, right = (stack[row["picture"]].astype(float) / 255 for stack in (original, reconstruction))
        assert ((left - right) ** 2).mean() == pytest.approx(row["mse"], abs=5e-3)


def test_report_and_leaderboard_are_written(run, tmp_path):
    assert run.report(tmp_path / "page.html").read_text().startswith("<!doctype html>".upper()[:2])
    assert run.leaderboard().height > 0


def test_an_entry_of_the_run_is_repeated_and_a_forged_one_is_found_out(run, tmp_path):
    directory = RunDirectory(run.path)
    marker, salt = directory.marker(), directory.salt()
    paths = entries.submit(tmp_path / "entries", run.results, run.pictures, marker, salt=salt)
    [path] = [path for path in paths if "dropout-p-0.25--dropout_inversion" in path.name]
    finding = fedsim.verify(path, victims=2, out=tmp_path / "again", write=True)
    assert (finding.outcome, finding.differences) == ("agrees", ())
    assert [victim.repeated for victim in finding.victims] == [victim.recorded.psnr for victim in finding.victims]
    entry = entries.read_one(path)
    assert entry.source.salt == salt == SALT
    assert [(one.outcome, one.victims) for one in entry.verified] == [("agrees", 2)]

    def shifted(block, *names):
        return block.model_copy(update={name: getattr(block, name) + 1.0 for name in names})

    forged = entry.model_copy(
        update={
            "scores": entry.scores.model_copy(update={"psnr": shifted(entry.scores.psnr, "value", "low", "high")}),
            "victims": entry.victims.model_copy(
                update={"values": [shifted(value, "psnr") for value in entry.victims.values]}
            ),
        }
    )
    path = entries.write(tmp_path / "entries", forged)
    assert fedsim.verify(path, victims=2, out=tmp_path / "again").outcome == "differs"  # from what was repeated above


def test_a_finished_run_returns_at_once_and_does_nothing_twice(run):
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("job.json")}
    started = time.monotonic()
    again = fedsim.run("smoke", out=run.path)
    assert time.monotonic() - started < 10  # no Ray was started
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("job.json")} == before
    assert again.results.equals(run.results)


def test_a_changed_scenario_keeps_what_is_finished(run):
    before = set(run.path.glob("jobs/*/job.json"))
    changed = fedsim.run("smoke", out=run.path, set=["attacks=[{name: inverting_gradients, iterations: 300}]"])
    assert set(changed.results["attack"]) == {"inverting_gradients", "null_mean", "null_random"}
    assert set(run.path.glob("jobs/*/job.json")) == before
    told = ["attacks=[{name: inverting_gradients, iterations: 300}]", "threat_model.dropout_rate=[known, unknown]"]
    both = fedsim.run("smoke", out=run.path, set=told)
    assert len(set(run.path.glob("jobs/*/job.json")) - before) == 1  # under `none` nothing is dropped
    rates = both.results.filter(attack="inverting_gradients").group_by("defense").agg(pl.col("threat_dropout_rate"))
    assert {name: sorted(told) for name, told in rates.iter_rows()} == {
        "none": ["known"] * 2,
        "dropout(p=0.25)": ["known"] * 2 + ["unknown"] * 2,
    }
    named = {row["attack_label"] for row in both.leaderboard().to_dicts() if row["role"] == "attack"}
    assert named == {"inverting_gradients", "inverting_gradients [not told the dropout rate]"}


def _start(out: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "fedsim.cli", "run", "smoke", "--salt", SALT, "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait_for(condition, process: subprocess.Popen, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


MOMENTS = {
    "the simulation starts": "simulation.log",
    "some cell is trained": "cells/*/cell.json",
    "some job is done": "jobs/*/job.json",
}


@pytest.mark.parametrize(
    "moments",
    [["some job is done"], pytest.param(list(MOMENTS), marks=pytest.mark.slow, id="each moment, one after another")],
    ids=" ".join,
)
def test_killed_a_run_goes_on_and_loses_nothing(tmp_path, run, moments):
    out = tmp_path / "smoke"
    finished: dict[Path, int] = {}
    for moment in moments:
        process = _start(out)
        _wait_for(lambda found=MOMENTS[moment]: any(out.glob(found)), process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        finished |= {path: path.stat().st_mtime_ns for path in out.glob("*/*/*.json") if path not in finished}
    process = _start(out)
    assert process.wait(timeout=300) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())
    results = fedsim.Run(out).results
    scores = ["mse", "psnr", "attack_loss"]
    assert results.sort(VICTIM).select(VICTIM + scores).equals(run.results.sort(VICTIM).select(VICTIM + scores))


def _running(mark: str) -> list[int]:
    """The processes that were started with a mark in their environment, by whatever way."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [int(environment.parent.name)] if mark.encode() in environment.read_bytes() else []
        except OSError:  # it has just ended
            continue
    return found


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGTERM], 143),
        pytest.param([signal.SIGINT], 130, marks=pytest.mark.slow),
        pytest.param([signal.SIGINT, signal.SIGINT], 130, marks=pytest.mark.slow),
        pytest.param([signal.SIGHUP], 129, marks=pytest.mark.slow),
    ],
    ids=lambda given: " ".join(one.name for one in given) if isinstance(given, list) else "",
)
def test_told_to_end_a_run_keeps_what_is_finished_and_says_so(tmp_path, signals, code):
    out, mark = tmp_path / "smoke", f"FEDSIM_TEST_MARK={tmp_path}"
    process = subprocess.Popen(
        [sys.executable, "-m", "fedsim.cli", "run", "smoke", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | dict([mark.split("=", 1)]),
    )
    try:
        _wait_for(lambda: any(out.glob("jobs/*/job.json")), process)
        for number in signals:
            process.send_signal(number)
            time.sleep(0.5)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code
    assert "what is finished is kept" in errors or len(signals) > 1
    assert "Traceback" not in errors
    assert "***" not in errors  # Ray's account of a crash
    assert (out / "results.parquet").exists() or len(signals) > 1
    deadline = time.monotonic() + 30
    while (left := _running(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


SERVE = """
import logging, ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
print(ray.get_runtime_context().gcs_address, flush=True)
input()
"""


def test_an_existing_ray_is_used_and_left_running(tmp_path, run):
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        address = server.stdout.readline().strip()
        out = tmp_path / "smoke"
        command = [sys.executable, "-m", "fedsim.cli", "run", "smoke", "--salt", SALT]
        command += ["--out", str(out), "--ray-address", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert server.poll() is None
        check_address(address)
        scores = ["mse", "psnr", "attack_loss"]
        results = fedsim.Run(out).results
        assert results.sort(VICTIM).select(VICTIM + scores).equals(run.results.sort(VICTIM).select(VICTIM + scores))
    finally:
        server.communicate("\n", timeout=60)

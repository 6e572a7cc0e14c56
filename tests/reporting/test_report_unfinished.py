"""Reading a run that is still going, was killed, or is damaged: what there is is shown, and what is missing is said."""

import os

import numpy as np
import polars as pl
import pytest
from made_up_run import HOSTILE, make_results

from fedsim.api import Run
from fedsim.errors import BadInput
from fedsim.files import write_json
from fedsim.observations import name_of
from fedsim.reporting import overview
from fedsim.runs import reading
from fedsim.runs.attacking import error_file
from fedsim.runs.directory import MARKER, RunDirectory
from fedsim.runs.jobs import cell_key, jobs_of
from fedsim.runs.results import write
from fedsim.scenario import every_cell, parse
from fedsim.table import SCHEMA
from fedsim.version import __version__

SCENARIO = {
    "name": "unfinished",
    "data": {"name": "mnist"},
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "federation": {"clients": 2, "rounds": 1},
    "victims": {"rounds": [1], "clients": 2},
    "attacks": [{"name": "inverting_gradients", "iterations": 2}],
    "defenses": ["none", {"name": "gaussian_noise", "std": 0.5}, {"name": "dropout", "p": 0.5}],
}


def seen(client):
    return {"observation": {"round": 1, "client": client}}


@pytest.fixture
def directory(tmp_path):
    """Three federations: one trained, with one attack job that failed and others not begun; one that failed."""
    scenario = parse(SCENARIO, rehearsed=False)
    started = RunDirectory(tmp_path / "unfinished")
    marker = {"name": "unfinished", "scenario": scenario.to_dict(), "command": "fedsim run x", "version": __version__}
    write_json(started.path / MARKER, marker)
    trained, failed, _ = every_cell(scenario)
    cell = started.cell(cell_key(trained))
    write_json(cell / "cell.json", {"faults": [], "accuracy": [0.1], "accounting_note": ""})
    for client in (0, 1):
        write_json(cell / "observations" / f"{name_of(1, client)}.json", seen(client))
    write_json(started.cell_error(cell_key(failed)), {"reason": f"no memory {HOSTILE}"})
    jobs = list(jobs_of(started, trained))
    write_json(error_file(started, jobs[0]), {"reason": "it died"})
    return started


def test_what_is_missing_is_counted(directory):
    found = reading.missing(directory)
    assert (found.cells, found.jobs, found.unknown) == (3, 3, "")
    assert found.untrained == ("mlp, dropout(p=0.5), seed 0",)
    assert dict(found.unfinished) == {"null_mean": 1, "null_random": 1}
    assert (found.trained, found.attacked) == (1, 0)
    for job in jobs_of(directory, every_cell(parse(SCENARIO, rehearsed=False))[0]):
        write_json(error_file(directory, job), {"reason": "it died"})
    assert (reading.missing(directory).trained, reading.missing(directory).attacked) == (1, 1)


def test_the_list_of_runs_says_how_many_cells_are_trained_and_how_many_attacked(directory):
    [line] = overview.runs(directory.path)
    assert (line.trained, line.attacked, line.cells) == (1, 0, 3)


def test_a_run_without_a_table_shows_what_its_jobs_have_left(directory):
    results = Run(directory.path).results
    assert set(results["status"]) == {"failed"}
    assert set(results.schema.items()) == set(SCHEMA.items())
    assert len(results) == 2 + 3 * 2  # the failed job's two victims, and all of the federation that failed
    page = " ".join(Run(directory.path).report().read_text().split())
    assert "1 of 3 federations are not trained yet" in page
    assert "2 of 3 attack jobs on the trained ones are not finished" in page
    assert "it died" in page
    assert HOSTILE not in page


def test_an_older_table_gives_way_to_what_has_been_done_since(directory):
    write(directory, make_results())
    os.utime(directory.results, (1, 1))
    assert len(Run(directory.path).results) == 8
    os.utime(directory.results)
    assert len(Run(directory.path).results) == len(make_results())


def test_a_run_of_another_version_is_shown_with_a_note(directory):
    write_json(directory.path / MARKER, {**directory.marker(), "version": "0.0.1"})
    with pytest.raises(BadInput, match=r"no results yet, and fedsim 0\.0\.1 began it"):
        _ = Run(directory.path).results
    write(directory, make_results())
    page = Run(directory.path).report().read_text()
    assert "Whether this run is complete cannot be told: fedsim 0.0.1 began it" in page


def test_a_scenario_that_cannot_be_read_again_is_a_note_and_no_error(directory):
    write(directory, make_results())
    marker = directory.marker()
    marker["scenario"]["model"] = {"name": "gone"}
    write_json(directory.path / MARKER, marker)
    os.utime(directory.results)
    assert "its scenario cannot be read again" in reading.missing(directory).unknown


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop("psnr", "job"), "missing: psnr, job"),
        (lambda table: table.with_columns(other=1), "unknown: other"),
        (lambda table: table.with_columns(pl.col("seed").cast(pl.String)), "of another type: seed"),
    ],
)
def test_a_table_of_another_version_is_one_clear_line(directory, change, said):
    write(directory, change(make_results()))
    with pytest.raises(BadInput) as error:
        _ = Run(directory.path).results
    assert said in one_line(error)
    assert "results.parquet" in one_line(error)
    assert "run the scenario again" in one_line(error)


def test_a_damaged_table_is_one_clear_line(directory):
    directory.results.write_bytes(b"not parquet")
    with pytest.raises(BadInput, match="damaged") as error:
        _ = Run(directory.path).results
    one_line(error)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY", None])
def test_a_damaged_picture_is_a_gap(directory, content):
    score = directory.score("job")
    score.mkdir(parents=True)
    if content is None:
        np.savez(score / "pictures.npz", original=np.zeros((1, 2, 2, 1), np.uint8))
    else:
        (score / "pictures.npz").write_bytes(content)
    with pytest.raises(FileNotFoundError, match=r"pictures\.npz: damaged"):
        reading.pictures(directory, "job")
    write(directory, make_results().with_columns(job=pl.lit("job")))
    assert "no picture" in Run(directory.path).report().read_text()

"""Run directories that were damaged on their way: one line that names file and fault; what can be shown is shown."""

from __future__ import annotations

import io
import json
import random
import warnings
from contextlib import suppress

import numpy as np
import polars as pl
import pytest
from made_up_run import row

from fedsim import observations, records, table
from fedsim.api import Run
from fedsim.errors import Caution, Damaged, FedsimError
from fedsim.files import read_json, read_tensors, write_json, write_tensors
from fedsim.runs.directory import MARKER, RunDirectory
from fedsim.runs.jobs import cell_key, jobs_of
from fedsim.runs.results import score_key
from fedsim.scenario import every_cell, parse
from fedsim.version import __version__

SCENARIO = {
    "name": "damaged",
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "federation": {"clients": 2},
    "victims": {"clients": 2},
    "attacks": ["first_linear"],
}


@pytest.fixture
def run(tmp_path):
    """One trained cell whose jobs are scored; there is no table, so that the rows are put together."""
    scenario = parse(SCENARIO, rehearsed=False)
    directory = RunDirectory(tmp_path / "damaged")
    marker = {"name": "damaged", "scenario": scenario.to_dict(), "command": "", "version": __version__}
    write_json(directory.path / MARKER, marker)
    [cell] = every_cell(scenario)
    trained = directory.cell(cell_key(cell))
    write_json(trained / "cell.json", {"faults": [], "accuracy": [0.1], "accounting_note": ""})
    for client in (0, 1):
        write_json(trained / "observations" / f"{observations.name_of(1, client)}.json", {"observation": {}})
    for job in jobs_of(directory, cell):
        score = directory.score(score_key(job, scenario))
        score.mkdir(parents=True)
        own = {"attack": job.attack["name"], "job": score.name}
        table.frame([row(client=c, picture=c, **own) for c in (0, 1)]).write_parquet(score / "rows.parquet")
        images = np.zeros((2, 4, 4, 1), np.uint8)
        np.savez_compressed(score / "pictures.npz", original=images, reconstruction=images)
    return directory.path


def damaged(content, seed):
    """The ways in which files arrive."""
    draw = random.Random(seed)
    yield b""
    yield content[: len(content) // 2]
    yield draw.randbytes(300)
    for _ in range(4):
        flipped = bytearray(content)
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        yield bytes(flipped)
    yield from (b"null", b"[]", b"3", b"{}", b"{" * 100_000, b'{"faults": [1], "scenario": 3, "accuracy": {}}')


@pytest.mark.parametrize(
    "file", ["fedsim-run.json", "cell.json", "round_1_client_0.json", "rows.parquet", "pictures.npz"]
)
def test_a_damaged_file_is_one_line_or_a_gap(run, file):
    path = next(iter(sorted(run.rglob(file))))
    content = path.read_bytes()
    for data in damaged(content, file):
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Caution)
            if file == "fedsim-run.json":
                with suppress(FedsimError):  # one line; of all others only their own part is missing
                    Run(run).report(run / "r.html")
                continue
            Run(run).report(run / "r.html")
            assert len(Run(run).results) == 6  # two victims of three attacks, whatever is known of them


def test_a_directory_may_be_given_as_text(run):
    assert Run(str(run)) == Run(run)


def test_of_damaged_scores_the_rows_are_failed_and_say_so(run):
    path = next(iter(sorted(run.rglob("rows.parquet"))))
    path.write_bytes(b"")
    with pytest.warns(Caution, match=r"rows.parquet: damaged: not the Parquet table"):
        found = Run(run).results
    lost = found.filter(status="failed")
    assert len(lost) == 2
    assert set(lost["reason"]) == {"its scores are damaged"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (pl.lit("x").alias("psnr"), r"other columns .*of another type: psnr"),
        (pl.lit("x").alias("attack_params"), "attack_params holds 'x'"),
        (pl.lit("[3]").alias("defense_params"), "a part has no name"),
        (pl.lit(None, pl.String).alias("attack"), "a row has no attack"),
        (pl.lit("fine").alias("status"), "no row has the status 'fine'"),
    ],
)
def test_a_table_is_held_to_what_its_columns_mean(tmp_path, change, fault):
    table.frame([row()]).with_columns(change).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(Damaged, match=fault):
        table.read_valid(tmp_path / "t.parquet")


def test_the_table_of_another_program_is_told_in_short(tmp_path):
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(Damaged) as error:
        table.read_valid(tmp_path / "t.parquet")
    assert len(str(error.value)) < 300 + len(str(tmp_path))


SEEN = {
    "observation": {
        "round": 1, "client": 0, "kind": "gradient", "precision": "float32", "input_shape": [1, 2, 2], "classes": 2,
        "mean": [0.5], "std": [0.5], "batch_size": 1, "examples": 1, "local": None, "defense": None,
    },
    "model": {"name": "mlp"},
    "derived": {},
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("std", [0.0]), ("mean", []), ("mean", [1, 2]), ("input_shape", [1, 2])),
        *(("classes", -1), ("kind", "x"), ("round", 2)),
    ],
)
def test_an_observation_is_held_to_its_shape(tmp_path, key, value):
    path = tmp_path / "observations" / "round_1_client_0.json"
    write_json(path, SEEN)
    assert observations.recorded(tmp_path, 1, 0) == SEEN
    write_json(path, {**SEEN, "observation": {**SEEN["observation"], key: value}})
    with pytest.raises(Damaged, match=r"round_1_client_0.json: damaged: "):
        observations.recorded(tmp_path, 1, 0)


def test_readers_say_file_and_fault(tmp_path):
    import torch

    path = tmp_path / "x"
    for content in (b"", b"\xff", b"[" * 100_000, b"{]"):
        path.write_bytes(content)
        with pytest.raises(Damaged, match="x: damaged: no JSON"):
            read_json(path)
        with pytest.raises(Damaged, match="x: damaged: not a safetensors file"):
            read_tensors(path)
    announced = json.dumps({"w": {"dtype": "F32", "shape": [10**13], "data_offsets": [0, 4 * 10**13]}}).encode()
    path.write_bytes(len(announced).to_bytes(8, "little") + announced)  # 40 TB in a hundred bytes
    with pytest.raises(Damaged, match="not a safetensors file"):
        read_tensors(path)
    write_tensors(path, {"w": torch.zeros(2)})
    assert read_tensors(path)["w"].shape == (2,)
    write_json(path, {"accuracy": [], "accounting_note": ""})
    with pytest.raises(Damaged, match="faults: Field required"):
        records.read(path, records.Trained)


def test_an_archive_is_looked_at_before_it_is_unpacked(tmp_path):
    from fedsim.archives import read_npz

    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros(50_000_000, np.uint8))  # 50 kB on disk
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="larger than"):
        read_npz(path, ["x"], most=10_000_000)
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())
    with pytest.raises(ValueError, match="objects, which are never read"):
        read_npz(path, ["x"])


def test_the_rows_of_a_job_have_no_labels_yet(tmp_path):
    """They are put to them where the table is made: until then nothing is missing."""
    rows = table.frame([row(model_params=None, defense_params=None)])
    rows.write_parquet(tmp_path / "t.parquet")
    assert table.read_valid(tmp_path / "t.parquet", labelled=False).height == rows.height
    with pytest.raises(Damaged, match="a row has no model_params"):
        table.read_valid(tmp_path / "t.parquet")

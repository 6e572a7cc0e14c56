"""`fedsim animate`: a GIF from a job's snapshots, small, ending in the answer; bad input is one line."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from made_up_run import row
from PIL import Image

from attacks import ThreatModel
from fedsim import answers, table
from fedsim.answers import Account, JobSpec, Outcome
from fedsim.cli import main
from fedsim.errors import BadInput
from fedsim.files import write_json, write_tensors
from fedsim.reporting.animation import drawing, emerging, gif, job_named, recorded, snapshots
from fedsim.reporting.animation.drawing import MARGIN, TILE
from fedsim.runs.directory import MARKER, RunDirectory
from fedsim.scenario.schema import Engine, Record

MEAN, STD = 0.25, 0.5
THREAT = {"labels": "known", "dropout_rate": "known"}


def _pixels(images: np.ndarray) -> np.ndarray:
    """(B, C, H, W) normalised as (B, H, W, C) uint8."""
    return (np.clip(images * STD + MEAN, 0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


def make_job(directory, key, *, shape=(1, 12, 12), batch=2, snapshots=9, mask=48, client=3, record=True):
    """A job with one client whose images come out of noise; the truth's order is the reverse of the attack's."""
    random = np.random.default_rng(0)
    spec = JobSpec(
        cell="cell",
        round=1,
        clients=(client,),
        attack={"name": "dropout_inversion", "iterations": 90},
        grants=THREAT,
        engine=Engine(record=Record(every=10) if record else None),
        seed=0,
        version="",
    )
    account = Account(
        threat_model=ThreatModel(**THREAT),
        kind="gradient",
        precision="float32",
        outcomes={client: Outcome(status="ok", loss=0.0125, iterations=87)},
        seconds=0.1,
        device="cpu",
        environment={},
    )
    answers.write(directory.job(key), spec, account)
    final = random.uniform(-0.5, 1.5, (batch, *shape)).astype(np.float32)
    answer = {f"{client}.images": torch.from_numpy(final)}
    if mask:
        answer[f"{client}.noise.hidden.2.dropout"] = torch.ones(batch, 2)
        answer[f"{client}.noise.hidden.0.dropout"] = torch.from_numpy(random.integers(0, 2, (batch, mask))).float()
    write_tensors(directory.job(key) / "reconstructions.safetensors", answer)
    if record:
        noisy = random.integers(0, 256, (snapshots, batch, *shape), dtype=np.uint8)
        kept = {
            f"{client}.iterations": torch.arange(snapshots) * 10,
            f"{client}.losses": torch.linspace(1, 0.1, snapshots),
            f"{client}.images": torch.from_numpy(noisy),
        }
        if mask:
            kept[f"{client}.noise.hidden.2.dropout"] = torch.ones(snapshots, batch, 2).half()
            kept[f"{client}.noise.hidden.0.dropout"] = torch.rand(snapshots, batch, mask).half()
        write_tensors(directory.job(key) / "snapshots.safetensors", kept)
    seen = {"observation": {"mean": [MEAN] * shape[0], "std": [STD] * shape[0]}}
    write_json(directory.cell("cell") / "observations" / f"round_1_client_{client}.json", seen)
    return final


def make_score(directory, final, *, client=3):
    """What scoring leaves: the pictures in the truth's order."""
    matched = _pixels(final)[::-1]
    originals = 255 - matched
    directory.score("score").mkdir(parents=True)
    np.savez_compressed(directory.score("score") / "pictures.npz", original=originals, reconstruction=matched)
    common = {"cell": "cell", "attack": "dropout_inversion", "attack_params": json.dumps({"iterations": 90})}
    threat = {f"threat_{aspect}": value for aspect, value in THREAT.items()}
    rows = [
        row(**common, **threat, client=client, sample=i, picture=i, job="score", defense="dropout(p=0.25)")
        for i in range(len(final))
    ]
    table.frame(rows).write_parquet(directory.results)
    return originals


@pytest.fixture
def directory(tmp_path):
    made = RunDirectory(tmp_path / "run")
    write_json(made.path / MARKER, {"name": "made-up"})
    return made


def _frames(content: bytes) -> list[np.ndarray]:
    opened = Image.open(io.BytesIO(content))
    return [np.asarray(_seek(opened, index).convert("RGB")).astype(int) for index in range(opened.n_frames)]


def _seek(opened, index):
    opened.seek(index)
    return opened


def _tile(frame: np.ndarray, place: int) -> np.ndarray:
    top, left = 2 * drawing.LINE + 12, MARGIN + place * (TILE + MARGIN)
    return frame[top : top + TILE, left : left + TILE]


def test_the_last_frame_is_the_answer_beside_its_own_original(directory):
    final = make_job(directory, "abc1")
    originals = make_score(directory, final)
    for victim in (0, 1):
        shown = emerging(directory, "abc1", victim)
        assert f"sample {1 - victim}" in shown.title
        assert (shown.iterations[-1], shown.losses[-1], shown.layer) == (87, 0.0125, "hidden.0.dropout")
        content = gif(shown)
        frames = _frames(content)
        assert len(frames) == 10
        times = TILE // 12
        pad = (TILE - 12 * times) // 2
        for place, expected in ((0, originals[1 - victim, ..., 0]), (1, _pixels(final)[victim, ..., 0])):
            drawn = _tile(frames[-1], place)[pad : pad + 12 * times, : 12 * times][
                times // 2 :: times, times // 2 :: times
            ]
            assert np.abs(drawn.mean(-1) - expected).max() <= 3
        assert np.abs(_tile(frames[0], 1) - _tile(frames[-1], 1)).mean() > 20
        assert np.abs(_tile(frames[0], 0) - _tile(frames[-1], 0)).mean() < 3


def test_the_last_frame_is_held_and_the_gif_starts_again(directory):
    make_job(directory, "abc1")
    opened = Image.open(io.BytesIO(gif(emerging(directory, "abc1", 0))))
    durations = [_seek(opened, index).info["duration"] for index in range(opened.n_frames)]
    assert durations[-1] == drawing.HELD_MILLISECONDS
    assert sum(durations[:-1]) <= drawing.SHOW_MILLISECONDS
    assert opened.info["loop"] == 0


def test_the_mask_is_shown_in_its_order_and_light_where_it_drops(directory):
    make_job(directory, "abc1")
    shown = emerging(directory, "abc1", 0)
    assert shown.masks.shape == (10, 6, 8)
    heat = drawing._heat(np.array([[0.0, 1.0, np.nan]]))
    assert heat[0, 0].min() > 200
    assert tuple(heat[0, 1]) == drawing.ACCENT
    assert tuple(heat[0, 2]) == drawing.PAPER


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (1, 1)), (512, (16, 32)), (256, (16, 16)), (997, (32, 32)), (2, (1, 2))]
)
def test_near_square(count, shape):
    assert snapshots._near_square(count) == shape


def test_without_scores_or_masks_the_rest_is_shown(directory):
    make_job(directory, "abc1", mask=0)
    shown = emerging(directory, "abc1", 0)
    assert (shown.original, shown.masks, shown.title) == (None, None, "dropout_inversion, client 3")
    assert len(_frames(gif(shown))) == 10


def test_a_damaged_table_or_pictures_cost_the_original_only(directory):
    make_score(directory, make_job(directory, "abc1"))
    assert emerging(directory, "abc1", 0).original is not None
    (directory.score("score") / "pictures.npz").write_bytes(b"no pictures")
    assert emerging(directory, "abc1", 0).original is None
    directory.results.write_bytes(b"no table")
    assert emerging(directory, "abc1", 0).original is None
    assert [one["defense"] for one in recorded(directory)] == ["–"]


def test_it_is_never_larger_than_two_megabytes(directory):
    make_job(directory, "abc1", shape=(3, 96, 96), batch=1, snapshots=200, mask=4096)
    assert len(gif(emerging(directory, "abc1", 0))) <= 2_000_000


def test_jobs_are_found_by_the_start_of_their_key(directory):
    make_job(directory, "abc1")
    make_job(directory, "abd2")
    make_job(directory, "abd", record=False)
    assert job_named(directory, "abc") == "abc1"
    assert job_named(directory, "abd") == "abd"
    assert [one["job"] for one in recorded(directory)] == ["abc1", "abd2"]
    assert (
        recorded(directory)[0] | {"attack": "dropout_inversion", "victims": 2, "snapshots": 9} == recorded(directory)[0]
    )
    with pytest.raises(BadInput, match=r"'ab' is the start of 3 jobs \(abc1, abd, abd2\)"):
        job_named(directory, "ab")
    for unknown in ("zz", "../jobs/abc1", "*"):
        with pytest.raises(BadInput, match="no finished job"):
            job_named(directory, unknown)


def test_why_there_is_nothing_to_show(directory):
    make_job(directory, "abc1", record=False)
    with pytest.raises(BadInput, match=r"no snapshots were recorded; set `engine: \{record: \{every: 200\}\}`"):
        emerging(directory, "abc1", 0)
    make_job(directory, "abc2")
    (directory.job("abc2") / "snapshots.safetensors").unlink()
    with pytest.raises(BadInput, match="dropout_inversion has no snapshots: it optimised nothing here"):
        emerging(directory, "abc2", 0)
    make_job(directory, "abc3")
    for victim in (-1, 2):
        with pytest.raises(BadInput, match="has 2 recorded images; 0 to 1"):
            emerging(directory, "abc3", victim)
    (directory.job("abc3") / "snapshots.safetensors").write_bytes(b"no tensors")
    with pytest.raises(BadInput, match=r"snapshots.safetensors: missing or damaged"):
        emerging(directory, "abc3", 0)
    (directory.job("abc3") / "job.json").write_text("{")
    with pytest.raises(BadInput, match=r"job.json: missing or damaged"):
        emerging(directory, "abc3", 0)


def _call(monkeypatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["fedsim", "animate", *words])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code or 0


def test_on_the_command_line(directory, monkeypatch, capsys, tmp_path):
    run = str(directory.path)
    assert _call(monkeypatch, run) == 2
    assert "no job has snapshots; set `engine: {record: {every: 200}}`" in capsys.readouterr().err
    make_score(directory, make_job(directory, "abc1"))
    assert _call(monkeypatch, run) == 0
    listed = capsys.readouterr().out
    assert all(word in listed for word in ("abc1", "dropout_inversion", "dropout(p=0.25)"))
    assert _call(monkeypatch, run, "abc", "--victim", "1", "--out", str(tmp_path / "it.gif")) == 0
    assert Image.open(tmp_path / "it.gif").n_frames == 10
    assert _call(monkeypatch, run, "abc") == 0
    assert (directory.path / "abc1-0.gif").exists()
    assert _call(monkeypatch, str(tmp_path), "abc") == 2

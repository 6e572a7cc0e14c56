"""Entries of the leaderboard: the numbers of the run's own leaderboard, strictly checked when they are read back."""

import hashlib
import io
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_run import HOSTILE, SCENARIO, board_rows, make_pictures, make_results, row, unscored
from PIL import Image

from fedsim import scenario as scenarios
from fedsim import table
from fedsim.errors import BadInput
from fedsim.reporting import entries
from fedsim.reporting.entries.entry import Entry
from fedsim.reporting.entries.parts import Cost, Scores
from fedsim.reporting.leaderboard import THREAT, build

ROOT = Path(__file__).parents[2]
MARKER = {"name": SCENARIO["name"], "scenario": SCENARIO, "command": "fedsim run made-up"}


@pytest.fixture(scope="module")
def submitted(tmp_path_factory):
    """The entries of the made-up run, on disk."""
    directory = tmp_path_factory.mktemp("board") / "entries"
    entries.submit(directory, make_results(), make_pictures, MARKER)
    return directory


@pytest.fixture
def lone(tmp_path):
    """A directory with one good entry of three victims and its picture: the two files."""
    results = board_rows(dropout_inversion=30.0).head(3).with_columns(job=pl.lit("a"), picture=pl.lit(0))
    images = np.arange(16 * 16, dtype=np.uint8).reshape(1, 16, 16, 1)
    [path] = entries.submit(tmp_path / "entries", results, lambda job: (images, images[:, ::-1]), MARKER)
    return path, path.with_suffix(".png")


def test_each_entry_has_the_numbers_of_its_row_of_the_leaderboard(submitted):
    collection = entries.read(submitted)
    assert collection.problems == []
    board = build(make_results()).filter(pl.col("answered") > 0).to_dicts()
    found = {
        (e.setting.label, e.defense.label, e.attack.label, e.threat_model["noise"]): e
        for e in collection.entries.values()
    }
    assert len(found) == len(collection.entries) == len(board)
    for line in board:
        entry = found[line["setting_label"], line["defense_label"], line["attack_label"], line["threat_noise"]]
        for name in Scores.model_fields:
            score = getattr(entry.scores, name)
            if name in ("label_accuracy", "level", "coverage", "chosen_psnr"):
                assert score == line[name]
            elif score is None:
                assert line[name] is None
            else:
                assert (score.value, score.low, score.high) == (line[name], line[f"{name}_low"], line[f"{name}_high"])
        for name in Cost.model_fields:
            assert getattr(entry.cost, name) == line["cost_of" if name == "of" else name]
        assert {f"threat_{name}": value for name, value in entry.threat_model.items()} == {n: line[n] for n in THREAT}
        assert entry.attack.role == line["role"]
        assert entry.attack.params == json.loads(line["attack_params"])
        counts = entry.victims.attacked, entry.victims.answered, entry.victims.clients
        assert counts == (line["n"], line["answered"], line["clients"])
        assert (entry.victims.failed, entry.victims.not_applicable) == (line["failed"], line["not_applicable"])
        assert entry.source.command == "fedsim run made-up"
        assert entry.source.seeds == [0]
        assert entry.source.hardware == ["cpu"]


def test_the_users_files_are_named_and_not_where_they_lie(tmp_path):
    scenario = {
        "name": "own",
        "data": {"name": "npz", "path": "/home/ann/secret/own.npz"},
        "model": {"name": "mlp", "checkpoint": "/home/ann/w.safetensors"},
        "sweep": {"data.path": ["/home/ann/a.npz", "/home/ann/b.npz"], "data": [{"path": "/home/ann/c.npz"}]},
    }
    [(entry, _)] = entries.entries_of(board_rows(cut=20.0), make_pictures, {**MARKER, "scenario": scenario})
    assert "ann" not in entry.model_dump_json()
    assert entry.source.definition["sweep"] == {"data.path": ["a.npz", "b.npz"], "data": [{"path": "c.npz"}]}


def test_many_victims_are_listed_in_part():
    rows = [row(client=client, psnr=20.0 + client / 100) for client in range(300)]
    [(entry, _)] = entries.entries_of(table.frame(rows), make_pictures, MARKER)
    assert (entry.victims.attacked, len(entry.victims.values)) == (300, 256)
    assert Entry.model_validate_json(entry.model_dump_json()) == entry


def test_images_without_an_answer_are_listed_with_the_score_that_counts():
    rows = [row(attack="cut", client=client, psnr=30.0) for client in range(3)]
    rows += [unscored(attack="cut", client=3, status="not_applicable", reason="x")]
    rows += [row(attack="null_mean", client=client, psnr=12.0) for client in range(4)]
    made = [entry for entry, _ in entries.entries_of(table.frame(rows), make_pictures, MARKER)]
    cut = next(entry for entry in made if entry.attack.name == "cut")
    assert [(value.psnr, value.answered) for value in cut.victims.values] == [(30.0, True)] * 3 + [(12.0, False)]
    assert (cut.scores.coverage, cut.victims.answered, cut.scores.leaked_psnr.value) == (0.75, 3, 0.75)


def test_the_hash_is_the_scenarios_digest():
    smoke = scenarios.load("smoke")
    marker = {"name": "smoke", "scenario": smoke.to_dict(), "command": "fedsim run smoke"}
    [(entry, _)] = entries.entries_of(board_rows(cut=20.0), make_pictures, marker)
    assert entry.source.scenario_hash == smoke.digest()


def test_submitting_again_gives_the_same_files_and_replaces_them(submitted, tmp_path):
    again = tmp_path / "entries"
    entries.submit(again, make_results(), make_pictures, MARKER)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in submitted.iterdir()}
    slower = make_results().with_columns(pl.col("seconds") * 2)

    def gone(job):
        raise FileNotFoundError(job)

    entries.submit(again, slower, gone, MARKER)
    assert {p.name for p in again.iterdir()} == {p.name for p in submitted.glob("*.json")}
    assert entries.read(again).problems == []


def test_another_scenario_threat_model_or_parameter_has_another_file(lone):
    path, _ = lone
    entry = Entry.model_validate_json(path.read_bytes())
    other = [
        entry.model_copy(update={"threat_model": {**entry.threat_model, "labels": "inferred"}}),
        entry.model_copy(update={"attack": entry.attack.model_copy(update={"params": {"iterations": 1}})}),
        entry.model_copy(update={"source": entry.source.model_copy(update={"scenario_hash": "0" * 16})}),
        entry.model_copy(update={"setting": entry.setting.model_copy(update={"conditions": {"round": 2}})}),
        entry.model_copy(update={"defense": entry.defense.model_copy(update={"dropout": 0.5})}),
    ]
    assert len({one.stem for one in [entry, *other]}) == 6


@pytest.mark.parametrize(
    "results", [table.empty(), table.frame([unscored(status="not_applicable", reason="no first linear layer")])]
)
def test_a_run_without_scores_is_refused_and_nothing_is_written(tmp_path, results):
    with pytest.raises(BadInput, match="no scored rows") as refusal:
        entries.submit(tmp_path / "entries", results, make_pictures, MARKER)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "entries").exists()


def test_a_name_longer_than_an_entry_takes_is_refused_in_one_line(tmp_path):
    with pytest.raises(BadInput, match="cannot be submitted") as refusal:
        entries.submit(tmp_path, table.frame([row(defense="x" * 600)]), make_pictures, MARKER)
    assert "\n" not in str(refusal.value)


def test_numbers_that_do_not_exist_are_null_and_no_guarantee_is_said(tmp_path):
    results = table.frame([row(ssim=math.nan, epsilon=math.inf)])
    [path] = entries.submit(tmp_path, results, make_pictures, MARKER)
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["scores"]["ssim"] is None
    assert content["cost"]["epsilon"] == "infinite"
    assert content["scores"]["psnr"] == {"value": 20.0, "low": None, "high": None}


def test_the_picture_holds_originals_above_reconstructions(submitted):
    pictures = list(submitted.glob("*.png"))
    assert pictures
    assert max(path.stat().st_size for path in pictures) < 12_000
    for path in pictures:
        picture = Entry.model_validate_json(path.with_suffix(".json").read_bytes()).picture
        assert picture.tile == (28, 28)
        failed = "clip" in path.name  # one of its victims
        assert len(picture.psnr) == 6 or (failed and len(picture.psnr) == 5)
    path = next(path for path in pictures if "inverting" in path.name and "mlp--none" in path.name)
    sheet = np.asarray(Image.open(path))
    originals, reconstructions = make_pictures("mlp/0/inverting_gradients")
    for at in range(6):
        above, below = sheet[:28, 28 * at : 28 * (at + 1)], sheet[28:, 28 * at : 28 * (at + 1)]
        [victim] = [n for n in range(len(originals)) if (originals[n, :, :, 0] == above).all()]
        assert (reconstructions[victim, :, :, 0] == below).all()


def test_large_colour_images_are_shown_smaller(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (1, 224, 112, 3), np.uint8)
    results = table.frame([row(job="a", picture=0)])
    [path] = entries.submit(tmp_path, results, lambda job: (images, images), MARKER)
    picture = entries.read(tmp_path).entries[path.stem].picture
    assert picture.tile == (48, 96)
    with Image.open(path.with_suffix(".png")) as sheet:
        assert (sheet.size, sheet.mode) == ((48, 192), "RGB")


def _set(*where, to):
    def change(content):
        place = content
        for step in where[:-1]:
            place = place[step]
        place[where[-1]] = to

    return change


def _both(first, second):
    return lambda content: (first(content), second(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("format", to=1), "no entry of format 2 but of format 1, no longer read: submit its run again"),
        (_set("format", to=3), "no entry of format 2; another version"),
        (_set("format", to="2"), "no entry of format 2; another"),
        (_set("extra", to=1), "extra: Extra inputs are not permitted"),
        (_set("scores", "median", to=1.0), "scores.median"),
        (_set("scores", "psnr", "value", to=math.nan), "scores.psnr.value"),
        (_set("cost", "seconds", to=math.inf), "cost.seconds"),
        (_set("cost", "seconds", to="3"), "cost.seconds"),
        (_set("cost", "utility", to=1.5), "cost.utility"),
        (_set("scores", "psnr", "low", to=90.0), "low end is above"),
        (_set("scores", "psnr", "low", to=None), "two ends"),
        (_set("victims", "attacked", to=0), "victims.attacked"),
        (_set("scores", "psnr", "value", to=31.0), "scores.psnr: 31.0, where victims.values give"),
        (_set("victims", "values", 0, "psnr", to=25.0), "scores.psnr"),
        (_set("victims", "values", 0, "psnr", to=120.0), "victims.values.0.psnr"),
        (_set("victims", "values", 0, "answered", to=False), "scores.leaked_psnr"),
        (_set("victims", "values", 1, "client", to=0), "a victim stands there twice"),
        (_set("victims", "attacked", to=4), "3 of 4 victims"),
        (_set("victims", "failed", to=10**30), "victims.failed"),
        (_set("victims", "values", 0, "seed", to=10**30), "victims.values.0.seed"),
        (_set("setting", "conditions", to={"data": 3, "round": 1}), "conditions.data.name"),
        (_set("setting", "conditions", to={"data": {"name": "mnist"}, "model": {"factory": "x"}}), "conditions.model"),
        (_set("cost", "of", to={"same_form": False}), "names its share"),
        (_set("scores", "level", to=0.95), "scores.level"),
        (_set("scores", "coverage", to=0.5), "scores.coverage"),
        (_set("attack", "name", to="well_informed"), "well_informed is an oracle"),
        (_set("attack", "name", to="null_mean"), "null_mean is a floor"),
        (_both(_set("attack", "name", to="x"), _set("threat_model", "noise", to="known")), "it is an oracle"),
        (_set("source", "definition", "seeds", to=[1]), "scenario_hash"),
        (_set("source", "salt", to="../x"), "source.salt"),
        (_set("verified", to=[{"outcome": "agrees"}]), "verified.0.date"),
        (_set("attack", "role", to="best"), "attack.role"),
        (_set("attack", "label", to="x" * 501), "attack.label"),
        (_set("attack", "label", to="a\nb"), "attack.label"),
        (_set("defense", "parts", to=[{"p": 0.5}]), "defense.parts"),
        (_set("threat_model", "labels", to="guessed"), "threat_model"),
        (_set("threat_model", "weather", to="known"), "threat_model"),
        (_set("source", "scenario_hash", to="../../etc"), "source.scenario_hash"),
        (_set("picture", "file", to="../secret.png"), "picture.file"),
        (_set("picture", "file", to="/etc/secret.png"), "picture.file"),
        (_set("picture", "file", to="other.png"), "picture.file"),
        (_set("picture", "tile", to=[10**6, 10**6]), "picture.tile"),
        (_set("attack", "name", to="other"), "is called"),
    ],
)
def test_an_entry_that_is_not_in_order_is_named_in_one_line(lone, change, said):
    path, _ = lone
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    collection = entries.read(path.parent)
    assert collection.entries == {}
    [problem] = collection.problems
    assert problem.startswith(f"{path}: ")
    assert said in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[]", b'"text"', b"null", b"[" * 50_000, b" " * 300_000]
)
def test_what_is_no_entry_at_all_is_named_in_one_line(lone, content):
    path, _ = lone
    path.write_bytes(content)
    collection = entries.read(path.parent)
    assert collection.entries == {}
    [problem] = collection.problems
    assert problem.startswith(f"{path}: ")
    assert "\n" not in problem


def _png(size):
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        (b"other", "SHA-256"),
        (_png((48, 32)), "SHA-256"),
        (b"\x89PNG\r\n\x1a\n", "no PNG"),
        (_png((9, 9)), "measures"),
    ],
)
def test_an_entry_with_a_bad_picture_stays_without_it(lone, content, said):
    path, picture = lone
    if content is None:
        picture.unlink()
    else:
        picture.write_bytes(content)
        if said != "SHA-256":
            entry = json.loads(path.read_text())
            entry["picture"]["sha256"] = hashlib.sha256(content).hexdigest()
            path.write_text(json.dumps(entry))
    collection = entries.read(path.parent)
    assert [entry.picture for entry in collection.entries.values()] == [None]
    [problem] = collection.problems
    assert picture.name in problem
    assert said in problem


def test_what_belongs_to_no_entry_is_named(lone, tmp_path):
    path, _ = lone
    (path.parent / "notes.txt").write_text("hello")
    (path.parent / "orphan.png").write_bytes(b"")
    secret = tmp_path / "secret.json"
    secret.write_bytes(path.read_bytes())
    (path.parent / "link.json").symlink_to(secret)
    collection = entries.read(path.parent)
    assert list(collection.entries) == [path.stem]
    assert [Path(problem.split(": ")[0]).name for problem in sorted(collection.problems)] == [
        "link.json", "notes.txt", "orphan.png",
    ]  # fmt: skip


def test_names_from_a_run_cannot_leave_the_directory(tmp_path):
    results = table.frame([row(attack="../../x", defense=HOSTILE, model="/etc/passwd")])
    [path] = entries.submit(tmp_path / "entries", results, make_pictures, {**MARKER, "name": "../.. /\\ "})
    assert path.parent == tmp_path / "entries"
    assert path.resolve().parent == (tmp_path / "entries").resolve()
    assert set(path.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert entries.read(tmp_path / "entries").problems == []


def test_the_repositorys_entries_are_in_order_and_of_bundled_scenarios():
    collection = entries.read(ROOT / "leaderboard" / "entries")
    assert collection.problems == []
    assert collection.entries
    bundled = {path.stem for path in (ROOT / "scenarios").glob("*.yaml")}
    for entry in collection.entries.values():
        assert entry.source.command.split()[:2] == ["fedsim", "run"]
        assert {entry.source.scenario, Path(entry.source.command.split()[2]).stem} <= bundled


def test_a_picture_that_is_too_large_or_damaged_is_one_line(tmp_path):
    import hashlib
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(side, *chunks):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks)

    from fedsim.reporting.entries.pictures import fault

    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))
    made = {
        "declares more than": png(20_000, chunk(b"IDAT", b"")),  # 400 megapixels in 45 bytes
        "measures": png(2, chunk(b"IDAT", b"")),
        "is no PNG": png(2, b"\0\0\0\1tEXt"),
    }
    for said, content in made.items():
        path = tmp_path / "p.png"
        path.write_bytes(content)
        assert said in (fault(path, sha256=hashlib.sha256(content).hexdigest(), size=(4, 4)) or ""), said
    path.write_bytes(png(4, bomb, chunk(b"IDAT", b"")))
    fault(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=(4, 4))  # nothing is raised

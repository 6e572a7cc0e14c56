"""A real run with snapshots: the table is the same, jobs are computed anew for them, and a GIF can be made of them."""

from __future__ import annotations

import io

import pytest
from PIL import Image

import fedsim
from fedsim.reporting import animation
from fedsim.runs.directory import RunDirectory
from fedsim.runs.progress import Facts, View

SMALL = ["attacks=[{name: dropout_inversion, iterations: 40}]", "metrics=[psnr]", "defenses=[{name: dropout, p: 0.25}]"]
WHICH = ["attack", "client", "sample", "threat_labels"]
SCORES = ["status", "psnr", "mse", "mask_accuracy", "attack_loss", "iterations"]


class Kept(View):
    def __init__(self) -> None:
        self.facts: list[Facts] = []

    def show(self, facts: Facts) -> None:
        self.facts.append(facts)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    view = Kept()
    return fedsim.run("smoke", out=tmp_path_factory.mktemp("runs") / "smoke", set=SMALL, view=view), view.facts


def test_the_view_is_told_what_happens(plain):
    run, facts = plain
    assert [facts[0].stage, facts[-1].stage] == ["starting", "finished"]
    assert {"training", "attacking"} <= {one.stage for one in facts}
    assert (facts[0].cells, facts[0].jobs) == ((0, 1), (0, 3))
    assert (facts[-1].cells, facts[-1].jobs) == ((1, 1), (3, 3))
    assert any(one.under_way for one in facts)
    scored = {label.attack: score for label, score in facts[-1].scored}
    for attack, score in scored.items():
        rows = run.results.filter(run.results["attack"] == attack)
        assert score.psnr == pytest.approx(rows["psnr"].median())
    assert set(scored) == set(run.results["attack"])
    assert {(label.model, label.defense) for label, _ in facts[-1].scored} == {("mlp", "dropout(p=0.25)")}


def test_with_snapshots_the_table_is_the_same_and_the_jobs_are_computed_anew(plain):
    run, _ = plain
    before = run.results.sort(WHICH).select(WHICH + SCORES)
    jobs = {path.name for path in run.path.glob("jobs/*")}
    recorded = fedsim.run("smoke", out=run.path, set=[*SMALL, "engine.record.every=10"])
    assert recorded.results.sort(WHICH).select(WHICH + SCORES).equals(before)
    assert len(list(run.path.glob("cells/*/cell.json"))) == 1
    assert {path.name for path in run.path.glob("jobs/*")} > jobs
    directory = RunDirectory(run.path)
    [job] = animation.recorded(directory)
    assert (job["attack"], job["victims"], job["snapshots"]) == ("dropout_inversion", 2, 4)
    shown = animation.emerging(directory, job["job"], 1)
    assert shown.iterations == [0, 10, 20, 30, 40]
    assert shown.original is not None
    assert shown.masks is not None
    assert Image.open(io.BytesIO(animation.gif(shown))).n_frames == 5


def test_swept_cells_that_share_a_federation_all_get_their_jobs(plain):
    run, _ = plain
    view = Kept()
    sweep = "sweep={threat_model.labels: [known, inferred, unknown]}"
    swept = fedsim.run("smoke", out=run.path, set=[*SMALL, sweep], view=view)
    assert view.facts[0].jobs == (3, 9)  # those with known labels were there
    assert view.facts[-1].jobs == (9, 9)
    assert view.facts[-1].cells == (1, 1)
    own = swept.results.filter(swept.results["attack"] == "dropout_inversion")
    assert dict(own.group_by("threat_labels", "status").len().drop("len").iter_rows()) == {
        "known": "ok",
        "inferred": "ok",
        "unknown": "not_applicable",
    }
    assert any(score.status == "not_applicable" for _, score in view.facts[-1].scored)

"""`fedsim runs` and `fedsim note`."""

from __future__ import annotations

import pytest
from made_up_run import make_results

from fedsim.errors import BadInput
from fedsim.files import write_json
from fedsim.reporting import overview
from fedsim.runs import notes
from fedsim.version import __version__


@pytest.fixture
def folder(tmp_path):
    for at, name in enumerate(("a", "deeper/b", "c")):
        path = tmp_path / name
        scenario = {"name": name, "description": "", "metrics": []}
        marker = {"name": name, "scenario": scenario, "command": "", "version": __version__}
        write_json(path / "fedsim-run.json", marker)
        if at < 2:
            make_results().write_parquet(path / "results.parquet")
    (tmp_path / "c" / "fedsim-run.json").write_text("{")
    (tmp_path / "no run").mkdir()
    return tmp_path


def test_each_run_has_a_line_also_one_that_is_damaged(folder, fedsim):
    lines = {line.path.name: line for line in overview.runs(folder)}
    assert set(lines) == {"a", "b", "c"}
    assert lines["a"].cells == 10
    assert lines["a"].verdict == "9 of 10 leak, none recommended"
    assert "damaged" in lines["c"].state
    code, said, _ = fedsim("runs", folder)
    assert code == 0
    assert "deeper/b" in said


def test_an_audit_is_called_one(tmp_path):
    marker = {"name": "audit of x", "audit": {}, "scenario": {"name": "audit of x"}, "version": __version__}
    write_json(tmp_path / "audit" / "fedsim-run.json", marker)
    make_results().write_parquet(tmp_path / "audit" / "results.parquet")
    [line] = overview.runs(tmp_path)
    assert line.state == "it is an audit, whose page is audit.html"


def test_a_folder_without_runs_and_none_at_all(tmp_path, fedsim):
    assert "no runs" in fedsim("runs", tmp_path)[1]
    assert fedsim("runs", tmp_path / "nowhere")[0] == 2


def test_tags_and_a_note_are_kept_and_shown(folder, fedsim):
    run = folder / "a"
    assert fedsim("note", run, "with the new\nschedule", "--tag", "paper", "--tag", "<b>")[0] == 0
    assert fedsim("note", run)[1].strip() == "paper, <b>: with the new schedule"
    assert "with the new schedule" in " ".join(fedsim("runs", folder)[1].split())
    page = fedsim("table", run, "--html")[1]
    assert "with the new schedule" in page
    assert "&lt;b&gt;" in page
    assert "with the new schedule" in fedsim("table", run, "--latex")[1]
    fedsim("report", run, "--html", folder / "r.html")
    assert "with the new schedule" in (folder / "r.html").read_text()
    fedsim("note", run, "", "--untag", "<b>")
    assert notes.read(run) == notes.Notes(tags=("paper",))


def test_what_is_no_tag_is_refused_and_a_damaged_file_is_one_line(folder):
    run = folder / "a"
    for tag in ("", "a,b", "x" * 41, "a\nb"):
        with pytest.raises(BadInput, match="--tag"):
            notes.write(run, add=[tag])
    with pytest.raises(BadInput, match="no such tag"):
        notes.write(run, remove=["x"])
    assert not (run / notes.FILE).exists()
    (run / notes.FILE).write_text('{"tags": 3}')
    with pytest.raises(BadInput, match="damaged"):
        notes.read(run)

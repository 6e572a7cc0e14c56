"""The leaderboard's site: who wins, complete pages, safe text, and what happens to bad input."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from made_up_run import HOSTILE, SCENARIO, board_rows, make_pictures, make_results, row

from fedsim import table
from fedsim.errors import BadInput
from fedsim.reporting import entries, site
from fedsim.reporting.leaderboard import ranks
from fedsim.reporting.site.board import board_of

MARKER = {"name": SCENARIO["name"], "scenario": SCENARIO, "command": f"fedsim run '{HOSTILE}'"}


def marker(name):
    return {"name": name, "scenario": {"name": name}, "command": f"fedsim run {name}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The entries of the made-up run, with `<script>` in the names of scenario, defense and attack."""
    directory = tmp_path_factory.mktemp("board") / "entries"
    results = make_results().with_columns(
        pl.when(pl.col("attack") == "dropout_inversion")
        .then(pl.lit(f"dia {HOSTILE}"))
        .otherwise(pl.col("attack"))
        .alias("attack")
    )
    entries.submit(directory, results, make_pictures, MARKER)
    return directory


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("built") / "site"
    site.write(target, entries.read(folder).entries, folder)
    return target


class Links(HTMLParser):
    """What a page refers to, and the cells of its tables."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.scripts, self.rows = [], 0, {}
        self._row = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.addresses += [named[key] for key in ("href", "src") if named.get(key)]
        self.scripts += tag == "script"
        if tag == "tr" and "data-stem" in named:
            self._row = self.rows.setdefault(named["data-stem"], [])

    def handle_endtag(self, tag):
        if tag == "tr":
            self._row = None

    def handle_data(self, data):
        if self._row is not None and data.strip():
            self._row.append(data.strip())


def test_there_is_an_index_and_a_page_for_each_scenario_attack_and_defense(built):
    assert sorted(path.name for path in built.glob("*.html")) == [
        "attack-dia-script-window.hacked-1-script.html",
        "attack-inverting_gradients.html",
        "attack-null_mean.html",
        "attack-null_random.html",
        "attack-well_informed.html",
        "defense-clip.html",
        "defense-dropout.html",
        "defense-gaussian_noise.html",
        "defense-none.html",
        "index.html",
        next(path.name for path in built.glob("scenario-made-up-script-window.hacked-1-script-????????.html")),
    ]


def test_every_link_is_relative_and_leads_to_a_file(built):
    for path in built.glob("*.html"):
        for address in Links(path.read_text()).addresses:
            if address != "data:,":
                assert re.fullmatch(r"[a-z0-9][a-z0-9./_-]*", address)
                assert (built / address).is_file()
    assert not re.search(r"https?://|@import", (built / "site.css").read_text() + (built / "site.js").read_text())


def test_names_are_text_wherever_they_stand(built):
    for path in built.glob("*.html"):
        text = path.read_text()
        assert "<script>window.hacked" not in text
        assert Links(text).scripts == 3
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1]
        assert not set("<>&") & set(data)
        json.loads(data)
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in (built / "index.html").read_text()


def test_the_index_shows_every_entry_with_its_numbers(built, folder):
    rows = Links((built / "index.html").read_text()).rows
    collection = entries.read(folder).entries
    assert rows.keys() == collection.keys()
    for stem, entry in collection.items():
        psnr = entry.scores.psnr
        assert f"{psnr.value:.1f}" in rows[stem]
        assert f"{psnr.low:.1f}–{psnr.high:.1f}" in rows[stem]
        assert f"{100 * entry.scores.leaked_psnr.value:.0f} %" in rows[stem]
        assert f"{entry.victims.answered} of {entry.victims.attacked}" in rows[stem]


def test_a_heading_names_the_setting_and_the_defense_of_the_rows_below_it(built, folder):
    text = (built / "index.html").read_text()
    collection = entries.read(folder).entries
    seen = set()
    table = text[text.index('data-board="attacks"') :].partition("</table>")[0]
    for body in re.findall(r"<tbody.*?</tbody>", table, re.S):
        [heading] = re.findall(r'<th scope="rowgroup" colspan="13"><div>(.*?) <span', body)
        stems = re.findall(r'data-stem="(.*?)"', body)
        about = {(collection[stem].setting.label, collection[stem].defense.label) for stem in stems}
        assert [html.escape(f"{setting} · {defense}") for setting, defense in about] == [heading]
        seen.update(stems)
    assert seen == collection.keys()


def test_pages_show_their_own_entries_only(built, folder):
    of = {stem: entry.attack.name for stem, entry in entries.read(folder).entries.items()}
    rows = Links((built / "attack-null_mean.html").read_text()).rows
    assert rows.keys() == {stem for stem, name in of.items() if name == "null_mean"}


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], []),
        ([(1, 2)], [(None, False)]),  # nobody is first of one
        ([(1, 2), (3, 4), (3.5, 5)], [(3, False), (1, True), (1, True)]),
        ([(1, 3), (2.5, 5), (4, 6)], [(2, True), (1, True), (1, True)]),  # what ties need not be one group
        ([(1, 2), (2, 3)], [(1, True), (1, True)]),
        ([(1, 2), (None, None), (5, 6)], [(2, True), (1, True), (1, True)]),
    ],
)
def test_ranks_tie_where_intervals_overlap(spans, expected):
    assert ranks(spans) == expected


def read_runs(tmp_path, *runs):
    for name, results in runs:
        entries.submit(tmp_path / "entries", results, make_pictures, marker(name))
    return board_of(entries.read(tmp_path / "entries").entries)


def test_a_defense_counts_by_the_strongest_attack_of_any_scenario_that_is_no_oracle(tmp_path):
    weak = board_rows(dlg=15.0, null_mean=40.0)
    oracle = board_rows(well_informed=60.0).with_columns(oracle=True)
    clipped = board_rows(dlg=14.0).with_columns(
        defense=pl.lit("clip(norm=1.0)"), defense_params=pl.lit('[{"name": "clip"}]')
    )
    board = read_runs(tmp_path, ("first", pl.concat([weak, oracle, clipped])), ("second", board_rows(cut=30.0)))
    worst = {one.strongest.entry.defense.label: one for one in board.defenses}
    assert worst["none"].strongest.entry.attack.name == "cut"
    assert worst["none"].strongest.entry.source.scenario == "second"
    assert worst["none"].tried == 2
    assert worst["clip(norm=1.0)"].strongest.entry.attack.name == "dlg"
    assert [one.against_none for one in board.defenses] == ["undefended", "nothing to tell"]
    assert [one.strongest.entry.defense.label for one in board.defenses] == ["none", "clip(norm=1.0)"]


def test_attacks_are_ranked_within_setting_defense_and_threat_model_only(tmp_path):
    here = board_rows(cut=30.0, dlg=20.0, dropout_inversion=30.2)
    told = board_rows(cut=50.0).with_columns(threat_labels=pl.lit("inferred"))
    larger = board_rows(cut=55.0).with_columns(batch_size=8)
    board = read_runs(tmp_path, ("here", here), ("told", told), ("larger", larger))
    found = {(row.entry.source.scenario, row.entry.attack.name): (row.rank, row.tied) for row in board.attacks}
    assert found == {
        ("here", "cut"): (1, True),
        ("here", "dropout_inversion"): (1, True),
        ("here", "dlg"): (3, False),
        ("told", "cut"): (None, False),  # of one
        ("larger", "cut"): (None, False),
    }
    assert {row.threat_label for row in board.attacks} == {"labels known", "labels inferred"}
    assert len({one.group for one in board.defenses}) == 3


def test_equal_labels_of_different_scenarios_are_told_apart(tmp_path):
    wide = board_rows(cut=30.0).with_columns(model_params=pl.lit('{"width": 512}'))
    slim = board_rows(cut=30.0).with_columns(model_params=pl.lit('{"width": 64}'), attack_params=pl.lit('{"steps": 9}'))
    board = read_runs(tmp_path, ("wide", wide), ("slim", slim))
    assert {row.setting_label for row in board.attacks} == {"mnist · mlp · width 512", "mnist · mlp · width 64"}
    assert {row.attack_label for row in board.attacks} == {"cut", "cut (steps=9)"}


def test_names_that_read_alike_have_pages_of_their_own(tmp_path):
    read_runs(tmp_path, ("a", board_rows(**{"a b": 20.0, "a-b": 30.0, "A b": 40.0})))
    pages = dict(site.pages(entries.read(tmp_path / "entries").entries))
    of = {name: {re.search(r"<h1>(.*?)</h1>", pages[name])[1]} for name in pages if name.startswith("attack-")}
    assert of == {"attack-a-b.html": {"A b"}, "attack-a-b-2.html": {"a b"}, "attack-a-b-3.html": {"a-b"}}


def test_without_entries_there_is_an_empty_index(tmp_path):
    assert "no entries yet" in site.write(tmp_path / "site", {}, tmp_path).read_text()


def test_a_site_built_again_loses_what_is_gone_and_keeps_what_is_not_ours(folder, tmp_path):
    target = tmp_path / "site"
    collection = entries.read(folder).entries
    site.write(target, collection, folder)
    (target / "CNAME").write_text("example.org")
    first = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    site.write(target, collection, folder)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == first
    kept = {stem: entry for stem, entry in collection.items() if entry.attack.name == "null_mean"}
    site.write(target, kept, folder)
    assert {path.name for path in target.glob("attack-*")} == {"attack-null_mean.html"}
    assert {path.stem for path in (target / "entries").iterdir()} == kept.keys()
    assert {path.stem for path in (target / "pictures").iterdir()} <= kept.keys()
    assert (target / "CNAME").read_text() == "example.org"


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"files": 3}'])
def test_a_directory_that_is_no_site_is_refused(tmp_path, content):
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter.tex").write_text("x")
    if content is not None:
        (target / site.MARKER).write_text(content)
    with pytest.raises(BadInput, match="not a site") as refusal:
        site.write(target, {}, tmp_path)
    assert "\n" not in str(refusal.value)
    assert not (target / "index.html").exists()
    with pytest.raises(BadInput, match="not a site"):
        site.write(target / "chapter.tex", {}, tmp_path)


def test_a_marker_cannot_make_it_delete_files_elsewhere(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("x")
    target = tmp_path / "site"
    site.write(target, {}, tmp_path)
    (target / site.MARKER).write_text(json.dumps({"files": ["../precious", str(precious), "."]}))
    site.write(target, {}, tmp_path)
    assert precious.exists()


@pytest.fixture
def run_directory(tmp_path):
    """The made-up run as a directory."""
    path = tmp_path / "made-up"
    path.mkdir()
    (path / "fedsim-run.json").write_text(json.dumps(MARKER))
    results = make_results()
    results.write_parquet(path / "results.parquet")
    for job in results["job"].drop_nulls().unique():
        try:
            original, reconstruction = make_pictures(job)
        except FileNotFoundError:
            continue
        (path / "scores" / job).mkdir(parents=True)
        np.savez(path / "scores" / job / "pictures.npz", original=original, reconstruction=reconstruction)
    return path


def test_from_a_run_to_the_site_on_the_command_line(fedsim, run_directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, error = fedsim("leaderboard", "--submit", run_directory)
    assert (code, error) == (0, "")
    written = [tmp_path / line for line in out.split()]
    assert written
    assert {path.parent for path in written} == {tmp_path / "leaderboard" / "entries"}
    code, out, error = fedsim("leaderboard", "--site", "site")
    assert (code, out, error) == (0, "site/index.html\n", "")

    broken, unpictured = written[0], written[1]
    broken.write_text("{")
    unpictured.with_suffix(".png").unlink()
    code, out, error = fedsim("leaderboard", "--site", "site", "--entries", "leaderboard/entries")
    assert code == 1
    lines = error.splitlines()
    assert len(lines) == 2
    assert any(broken.name in line and "JSON" in line for line in lines)
    assert any(unpictured.name in line and "is missing" in line for line in lines)
    rows = Links((tmp_path / "site" / "index.html").read_text()).rows
    assert rows.keys() == {path.stem for path in written} - {broken.stem}


def test_what_the_command_refuses(fedsim, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    for arguments, said in [
        ([], "--submit"),
        (["--submit", tmp_path / "full"], "not a fedsim run"),
        (["--site", tmp_path / "site", "--entries", tmp_path / "nowhere"], "no such directory"),
        (["--site", tmp_path / "full", "--entries", tmp_path / "full"], "not a site"),
    ]:
        code, _, error = fedsim("leaderboard", *arguments)
        assert code == 2
        assert said in error
        assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_the_stage_of_a_cascade_that_answered_is_shown_as_text(tmp_path):
    stage = json.dumps({"stage": f"cut {HOSTILE}"})
    results = board_rows(cascade=40.0).with_columns(details=pl.lit(stage))
    entries.submit(tmp_path / "entries", results, make_pictures, marker("cascades"))
    site.write(tmp_path / "site", entries.read(tmp_path / "entries").entries, tmp_path / "entries")
    page = (tmp_path / "site" / "index.html").read_text()
    assert HOSTILE not in page
    shown = [cell for row in Links(page).rows.values() for cell in row if cell.startswith("answered by")]
    assert (
        shown == [f"answered by cut {HOSTILE} (8 images)"] * 2
    )  # of the defense's strongest attack, and of the attack


def test_the_bytes_of_a_defense_stand_beside_what_else_it_costs(tmp_path):
    def sent(parts, count):
        name = parts[0]["name"]
        return [
            row(client=c, defense=name, defense_params=json.dumps(parts), bytes=count, epsilon=5.5, delta=1e-5)
            for c in range(6)
        ]

    rows = [*sent([{"name": "none"}], 1000), *sent([{"name": "clip", "norm": 1.0}], 130)]
    entries.submit(tmp_path / "entries", table.frame(rows), make_pictures, MARKER)
    site.write(tmp_path / "site", entries.read(tmp_path / "entries").entries, tmp_path / "entries")
    page = (tmp_path / "site" / "index.html").read_text()
    assert "bytes sent, ×" in page
    defended = next(part for part in page.split("<tr") if ">clip<" in part and "<td>5.5</td>" in part)
    assert "<td>5.5</td>\n<td>0.13</td>" in defended

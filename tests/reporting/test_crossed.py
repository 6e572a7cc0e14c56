"""Attacks against defenses as a table in Markdown."""

from __future__ import annotations

import html.parser
import re

import polars as pl
from made_up_run import HOSTILE, make_results, row, unscored

from fedsim import table
from fedsim.files import write_json
from fedsim.reporting import crossed, leaderboard
from fedsim.version import __version__


def test_a_row_an_attack_a_column_a_defense():
    rows = [row(client=c, psnr=40.0 + c, stopped="budget") for c in range(6)]
    rows += [row(client=c, psnr=9.0 + c, defense="clip") for c in range(6)]
    rows += [row(client=c, psnr=30.0, attack="well_informed", oracle=True) for c in range(6)]
    rows += [unscored(client=c, attack="cut", status="not_applicable", reason="no head") for c in range(6)]
    rows += [row(client=c, psnr=10.0, attack="null_mean") for c in range(6)]
    text = crossed.markdown(leaderboard.build(table.frame(rows)))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| attack | knows | none | clip |"
    assert "| inverting_gradients | C | 42.5 (40.0–45.0) † | 11.5 (9.0–14.0) |" in lines
    assert "| well_informed (oracle) | C | 30.0 (30.0–30.0) |  |" in lines
    assert "| cut | C | declines |  |" in lines
    assert "6 images of 6 clients a defense" in text


def test_images_that_were_not_answered_are_counted_beside_the_median():
    rows = [row(client=c, psnr=40.0) for c in range(4)]
    rows += [unscored(client=c, status="not_applicable", reason="no head") for c in (4, 5)]
    rows += [row(client=c, psnr=10.0, attack="null_mean") for c in range(6)]
    assert "40.0 (10.0–40.0), 4 of 6 |" in crossed.markdown(leaderboard.build(table.frame(rows)))


def test_settings_have_tables_of_their_own():
    rows = pl.concat([table.frame([row(client=c, model=name) for c in range(6)]) for name in ("mlp", "lenet")])
    assert crossed.markdown(leaderboard.build(rows)).count("| attack | knows |") == 2


def several():
    rows = []
    for defense, psnr in (("none", 40.0), ("clip", 20.0)):
        common = {"defense": defense, "defense_params": "[]" if defense == "none" else None}
        common = {key: value for key, value in common.items() if value is not None}
        for c in range(6):
            rows.append(row(client=c, psnr=psnr + c, **common))
            rows.append(row(client=c, psnr=psnr + 10 + c, attack="cut", **common))
            rows.append(row(client=c, psnr=psnr + c, attack="cut_50%_& more", **common))
            rows.append(row(client=c, psnr=90.0, attack="well_informed", oracle=True, beyond="noise", **common))
            rows.append(row(client=c, psnr=9.0, attack="null_mean", letter="D", **common))
        if defense == "clip":
            rows += [row(client=c, psnr=35.0 + c, threat_defense="known", **common) for c in range(6)]
    return leaderboard.build(table.frame(rows))


def test_the_best_is_bold_among_those_that_were_told_the_same():
    [section] = crossed.sections(several())
    lines = [(part.told, line) for part in section.parts for line in part.lines]
    bold = {(told, line.attack): [score.best for score in line.scores] for told, line in lines}
    assert bold["", "cut"] == [True, True]  # 50 and 30 dB
    assert bold["", "inverting_gradients"] == [False, False]
    # it is alone under the defense that it was told of: there is nothing that it is better than
    assert bold["knows the defense", "inverting_gradients"] == [False, False]


def test_oracles_and_floors_are_set_apart_and_threat_models_too():
    [section] = crossed.sections(several())
    assert [part.role for part in section.parts] == ["oracle", "attack", "attack", "floor"]
    assert [part.heading for part in section.parts] == [
        "oracle, threat model C: was told noise",
        "threat model C",
        "threat model C, knows the defense",
        "floor: never looks at the update",
    ]


def test_where_there_is_no_defense_there_is_none_to_know():
    [section] = crossed.sections(several())
    [told] = [part for part in section.parts if part.told]
    assert [score.median for score in told.lines[0].scores] == ["42.5", "37.5"]


def test_latex_is_balanced_and_says_names_as_they_are():
    text = crossed.latex(several())
    assert r"cut\_50\%\_\& more" in text
    body = re.sub(r"\\[{}]", "", text)
    assert body.count("{") == body.count("}")
    lines = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {2}
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 4, 1]
    assert r"\textbf{52.5}" in text
    assert text.isascii()


def test_the_page_asks_nothing_of_the_network_and_escapes_names():
    page = crossed.html(leaderboard.build(make_results()))
    assert HOSTILE not in page
    assert "http" not in page
    opened: list[str] = []

    class Balance(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "link", "br"):
                opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Balance().feed(page)
    assert not opened


def test_the_command_writes_one_format(fedsim, tmp_path):
    path = tmp_path / "run"
    write_json(path / "fedsim-run.json", {"name": "made-up", "version": __version__})
    make_results().write_parquet(path / "results.parquet")
    assert fedsim("table", path, "--latex", "--html")[0] == 2
    code, said, _ = fedsim("table", path, "--latex", "--out", tmp_path / "t.tex")
    assert (code, said.strip()) == (0, str(tmp_path / "t.tex"))
    assert r"\toprule" in (tmp_path / "t.tex").read_text()
    assert fedsim("table", path)[1].startswith("### mnist")

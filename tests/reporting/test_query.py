"""Runs as data: SQL sees the table and nothing else; what is written can be read again."""

import io
import json

import polars as pl
import pytest
from made_up_run import HOSTILE, make_results
from rich.console import Console

import fedsim
from fedsim.errors import BadInput
from fedsim.files import write_json
from fedsim.reporting import query
from fedsim.version import __version__


@pytest.fixture
def runs(tmp_path):
    """Two finished runs of the same name in two directories, and one of another name."""
    made = []
    for at, (folder, name) in enumerate((("a", "same"), ("b", "same"), ("a", "other"))):
        path = tmp_path / folder / name
        marker = {"name": "made-up", "scenario": {"metrics": []}, "command": "", "version": __version__}
        write_json(path / "fedsim-run.json", marker)
        rows = make_results().with_columns(run=pl.lit(name)).head(10 + at)
        rows.write_parquet(path / "results.parquet")
        made.append(path)
    return made


@pytest.fixture
def command(fedsim):
    """`fedsim results ...`: its exit code and what it printed."""
    return lambda *words: fedsim("results", *words)


def test_sql_gives_what_polars_gives(results):
    answer = query.sql(
        results,
        "select attack, median(psnr) as psnr, sum(iterations) as iterations, count(*) as n from results "
        "where status = 'ok' group by attack order by attack",
    )
    expected = (
        results.filter(pl.col("status") == "ok")
        .group_by("attack")
        .agg(pl.col("psnr").median(), pl.col("iterations").sum(), pl.len().cast(pl.Int64).alias("n"))
        .sort("attack")
    )
    assert answer.equals(expected)


def test_the_whole_table_comes_back_as_it_was(results):
    assert query.sql(results, "from results").equals(results)


def test_an_empty_answer_has_its_columns(results):
    empty = query.sql(results, "select attack, psnr from results where psnr > 1000")
    assert empty.schema == {"attack": pl.String, "psnr": pl.Float64}
    assert query.to_csv(empty) == "attack,psnr\n"
    assert json.loads(query.to_json(empty)) == []
    assert "0 rows, 2 columns" in shown(empty)


def test_numbers_are_written_as_they_are(results):
    frame = results.select("psnr", "iterations", "oracle", "epsilon", "reason")
    assert pl.read_csv(io.StringIO(query.to_csv(frame)), schema=frame.schema).equals(frame)
    assert json.loads(query.to_json(frame)) == frame.to_dicts()
    strange = pl.DataFrame({"x": [float("inf"), float("nan"), None, 1.5]})
    assert json.loads(query.to_json(strange)) == [{"x": None}, {"x": None}, {"x": None}, {"x": 1.5}]


@pytest.mark.parametrize(
    "text",
    [
        "select * from read_csv('{secret}')",
        "select * from '{secret}'",
        "select * from read_text('{secret}')",
        "select * from glob('{folder}/*')",
        "copy results to '{folder}/out.csv'",
        "copy (select 1) to '{folder}/out.parquet'",
        "attach '{folder}/out.db'",
        "export database '{folder}/out'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "reset enable_external_access",
        "select 1; copy results to '{folder}/out.csv'",
        "select * from secret_frame",
        "insert into results select * from results",
    ],
)
def test_sql_reaches_nothing_but_the_table(results, tmp_path, text):
    secret = tmp_path / "secret.csv"
    secret.write_text("word\nxyzzy\n")
    secret_frame = pl.DataFrame({"word": ["xyzzy"]})
    with pytest.raises(BadInput) as error:
        query.sql(results, text.format(secret=secret, folder=tmp_path))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("--sql: ")
    assert [file.name for file in tmp_path.iterdir()] == ["secret.csv"]
    assert len(secret_frame) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("selec 1", "syntax error"),
        ("select foo from results", 'Referenced column "foo" not found'),
        ("", "it takes a query such as: select attack, psnr from results"),
        ("select 1 as a, 2 as a", "appears more than once"),
        ("select 'x'::integer", "Could not convert"),
    ],
)
def test_a_bad_query_is_one_line(results, text, says):
    with pytest.raises(BadInput, match=says) as error:
        query.sql(results, text)
    assert "\n" not in str(error.value)


def test_several_runs_are_told_apart(runs):
    same, again, other = runs
    both = fedsim.results([same, other])
    assert both["run"].value_counts(sort=True).rows() == [("other", 12), ("same", 10)]
    namesakes = fedsim.results([str(same), again, again.parent / "." / "same"])
    assert dict(namesakes["run"].value_counts().rows()) == {str(same): 10, str(again): 11}
    assert fedsim.Run(other).sql("select count(*) as n from results")["n"].to_list() == [12]


def test_a_directory_that_is_no_run(runs, tmp_path):
    with pytest.raises(BadInput, match="not a fedsim run"):
        fedsim.results([runs[0], tmp_path])


def shown(frame, width=100):
    console = Console(width=width, file=io.StringIO())
    console.print(query.terminal(frame))
    return console.file.getvalue()


def test_the_terminal_shows_first_rows_and_all_columns(results):
    text = shown(results)
    assert all(name in text for name in results.columns)
    assert f"{len(results)} rows, {results.width} columns; the first 3 shown" in text
    few = shown(results.select("defense", "psnr"))
    assert "the first 40 shown" in few
    assert max(map(len, text.splitlines() + few.splitlines())) <= 100
    rows = pl.DataFrame({"name": [HOSTILE, "[bold]x[/bold]"]})
    assert HOSTILE in shown(rows)
    assert "[bold]x[/bold]" in shown(rows)


def test_the_command_prints_raw_csv(runs, command, tmp_path):
    """Wider than any terminal, and with a name that a terminal would read as markup."""
    long = "select '[red]' || repeat('x', 300) as name, psnr from results where psnr is not null limit 1"
    code, printed, _ = command(runs[0], "--sql", long, "--csv", "-", "--json", tmp_path / "rows.json")
    assert code == 0
    [header, line] = printed.splitlines()
    assert header == "name,psnr"
    assert line.startswith("[red]" + "x" * 300 + ",")
    [row] = json.loads((tmp_path / "rows.json").read_text())
    assert float(line.split(",")[1]) == row["psnr"]


def test_the_command_refuses_a_file_in_one_line(runs, command, tmp_path):
    query = "select * from read_csv('/etc/passwd')"
    code, printed, said = command(runs[0], "--sql", query, "--csv", tmp_path / "out.csv")
    assert (code, printed) == (2, "")
    assert len(said.splitlines()) == 1
    assert "/etc/passwd" in said
    assert not (tmp_path / "out.csv").exists()


def test_the_command_shows_a_table(runs, command):
    code, printed, _ = command(*runs, "--sql", "select count(*) as images from results")
    assert (code, printed.split()[:2]) == (0, ["images", "33"])


def test_both_cannot_be_printed(runs, command):
    code, printed, said = command(runs[0], "--csv", "-", "--json", "-")
    assert (code, printed) == (2, "")
    assert "choose one" in said


def test_memory_is_bounded_inside_a_single_operator(results):
    for asked in ("select length(repeat('x', 4000000000)) as n", "select repeat('x', 4000000000)"):
        with pytest.raises(BadInput, match=r"--sql: .*[Mm]emory") as error:
            query.sql(results, asked)
        assert len(str(error.value)) <= 300


def test_time_is_bounded_inside_a_single_operator(results, monkeypatch):
    monkeypatch.setattr(query, "SECONDS", 2)
    with pytest.raises(BadInput, match="--sql: interrupted after 2 s; ask for less"):
        query.sql(results, "select sum(sqrt(a.range * b.range)) from range(10000000) a, range(1000000) b")


def test_nested_answers_can_be_shown_and_written(results):
    answer = query.sql(results, "select {'a': 1, 'b': [1, 2]} as s, [1, 2] as l, map {'k': 2} as m, 1::hugeint as h")
    console = Console(width=100, record=True)
    console.print(query.terminal(answer))
    assert "[1, 2]" in console.export_text()
    assert json.loads(query.to_json(answer))[0]["l"] == [1, 2]
    with pytest.raises(BadInput, match="--json can hold it"):
        query.to_csv(answer)

"""The report's text and structure, without a browser."""

import io

import numpy as np
import polars as pl
import pytest
from made_up_run import HOSTILE, VICTIMS, board_rows, make_results, row
from matplotlib.image import imread

from fedsim import table
from fedsim.reporting import charts, figures, gallery, leaderboard, prose, report


def answer(results):
    board = leaderboard.build(results)
    return prose.answer(prose.verdicts(board), failed=int(board["failed"].sum()))


def defended(psnr, **values):
    return board_rows(inverting_gradients=psnr).with_columns(defense=pl.lit("clip(norm=1.0)"), **values)


def test_nothing_from_the_run_reaches_the_page_unescaped(results, pictures, report_inputs):
    page = report.html(results, pictures, **report_inputs)
    assert HOSTILE not in page
    assert "&lt;script&gt;window.hacked" in page


def test_an_empty_table_gives_a_page_that_says_so(pictures, report_inputs):
    page = report.html(table.empty(), pictures, **(report_inputs | {"history": []}))
    assert "This run has no results yet" in page
    assert "fedsim run made-up" in page
    assert len(page) < 100_000  # no chart, no plotly


def test_missing_pictures_leave_gaps(results, report_inputs):
    def nothing(job):
        raise FileNotFoundError(job)

    page = report.html(results, nothing, **report_inputs)
    assert "no picture" in page
    assert 'alt="original, client' not in page


def test_without_a_utility_block_the_report_says_how_to_add_one(results, pictures, report_inputs):
    report_inputs["scenario"] = report_inputs["scenario"] | {"utility": None}
    page = report.html(results.with_columns(utility=pl.lit(None, pl.Float64)), pictures, **report_inputs)
    assert "has no <code>utility</code> block" in page


def test_the_answer_counts_what_the_strongest_attack_rebuilt():
    text = answer(pl.concat([board_rows(inverting_gradients=40.0, dropout_inversion=12.0), defended(30.0)]))
    assert "Without a defense, the strongest attack rebuilt 8 of 8 images." in text
    assert "Most images were still rebuilt under clip(norm=1.0) (inverting gradients: 8 of 8 images)." in text
    assert "a stronger attack may do better" not in text


def test_a_defense_that_held_is_not_called_safe():
    text = answer(pl.concat([board_rows(inverting_gradients=40.0), defended(12.0)]))
    assert "None of the attacks tried rebuilt an image under clip(norm=1.0)" in text
    assert "0 of 8 images; a true rate up to 37 % cannot be excluded" in text  # 1 - 0.025 ** (1 / 8)
    assert "a stronger attack may do better" in text


def test_an_oracle_or_a_floor_never_decides_the_answer():
    rows = defended(12.0)
    oracle = rows.with_columns(attack=pl.lit("well_informed"), oracle=True, psnr=pl.lit(80.0), leaked_psnr=True)
    floor = rows.with_columns(attack=pl.lit("null_random"), psnr=pl.lit(60.0), leaked_psnr=True)
    assert "None of the attacks tried rebuilt an image" in answer(pl.concat([rows, oracle, floor]))


def test_the_strongest_attack_counts_where_a_weaker_one_leaks_more_often():
    strong = [row(attack="a", client=c, psnr=18.9) for c in range(8)]
    lucky = [row(attack="b", client=c, psnr=25.0 if c < 2 else 5.0) for c in range(8)]
    [verdict] = prose.verdicts(leaderboard.build(table.frame(strong + lucky)))
    assert (verdict.best["attack_label"], verdict.kind) == ("a", "partly")


def test_the_answer_names_the_cost_in_accuracy():
    plain = board_rows(inverting_gradients=40.0).with_columns(utility=0.9)
    text = answer(pl.concat([plain, defended(12.0, utility=pl.lit(0.85))]))
    assert "percentage points at most: clip(norm=1.0) 5.0." in text
    assert "What the defenses cost in accuracy was not measured." in answer(plain.with_columns(utility=pl.lit(None)))


def test_the_threat_model_says_what_an_attack_was_given_besides(results):
    general, exceptions = prose.threat_model(leaderboard.build(results))
    assert "It does not know the dropout masks that a client drew." in general
    assert exceptions == [
        ("well_informed", ["It was told the dropout masks that each client drew, which no real server knows."])
    ]


def test_every_panel_shows_the_same_first_victims(results, pictures):
    shown = list(gallery.panels(results, pictures, victims=4))
    assert len(shown) == 10
    assert {tuple(panel.victims) for panel in shown} == {("client 0", "client 1", "client 2", "client 3")}
    stack, _ = pictures("mlp/0/null_mean")
    for panel in shown:
        for place, tile in enumerate(panel.originals):
            np.testing.assert_array_equal(tile.image, stack[place])


def test_captions_are_the_scores_of_the_picture_above_them(results, pictures):
    panel = next(iter(gallery.panels(results, pictures)))
    first = next(line for line in panel.rows if line.label == "inverting_gradients")
    expected = results.filter(
        pl.col("model") == "mlp", pl.col("defense") == "none", pl.col("attack") == "inverting_gradients"
    ).sort("client")
    assert [tile.psnr for tile in first.tiles] == expected["psnr"].to_list()[: len(first.tiles)]
    assert len(first.tiles) == min(8, VICTIMS)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_figure_is_a_png_of_the_panels(channels):
    def stack(job):
        originals, rebuilt = (np.full((VICTIMS, 8, 8, channels), level, np.uint8) for level in (0, 255))
        return originals, rebuilt

    image = imread(io.BytesIO(figures.grid(make_results(), stack, victims=2, dpi=60)), format="png")
    assert image.ndim == 3
    assert (image[..., :3].max(axis=2) == 0).any()  # the black originals


def test_the_figure_says_that_there_is_nothing(pictures):
    assert figures.grid(table.empty(), pictures).startswith(b"\x89PNG")


def test_the_dropout_chart_holds_what_only_dropout_defends(results):
    charted = dict(charts.score_against_dropout(leaderboard.build(results)))
    assert list(charted) == ["mnist · mlp", "mnist · lenet"]
    drawn = {line.name: list(line.x) for line in charted["mnist · mlp"].data}
    assert drawn["inverting_gradients"] == [0.0, 0.25, 0.5]
    assert drawn["well_informed, oracle"] == [0.25, 0.5]


def test_one_dropout_rate_makes_no_chart():
    assert list(charts.score_against_dropout(leaderboard.build(board_rows(inverting_gradients=20.0)))) == []

"""The report's text and structure, without a browser."""

import base64
import io
import json
from typing import get_args, get_type_hints

import numpy as np
import polars as pl
import pytest
from made_up_run import HOSTILE, VICTIMS, board_rows, make_results, row
from matplotlib.image import imread
from PIL import Image

from attacks import ThreatModel
from fedsim import table
from fedsim.reporting import charts, gallery, leaderboard, picture_grid, prose, report, strips, sweeps
from fedsim.reporting.verdicts import verdicts


def answer(results):
    board = leaderboard.build(results)
    return prose.answer(verdicts(board), failed=int(board["failed"].sum()))


def defended(psnr, **values):
    return board_rows(inverting_gradients=psnr).with_columns(
        defense=pl.lit("clip(norm=1.0)"), defense_params=pl.lit('[{"name": "clip", "norm": 1.0}]'), **values
    )


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


def test_of_many_defenses_a_sentence_names_a_few():
    def clipped(norm):
        spec = json.dumps([{"name": "clip", "norm": norm}])
        names = {"defense": pl.lit(f"clip(norm={norm})"), "defense_params": pl.lit(spec)}
        return board_rows(inverting_gradients=30.0).with_columns(**names, utility=pl.lit(0.9 - norm / 100))

    many = [clipped(float(norm)) for norm in range(1, 8)]
    text = answer(pl.concat([board_rows(inverting_gradients=40.0).with_columns(utility=pl.lit(0.9)), *many]))
    assert text.count("8 of 8 images)") == 4
    assert "clip(norm=4.0) (inverting gradients: 8 of 8 images) and 3 more." in text
    cost = text.partition("in percentage points at most: ")[2]
    assert cost.startswith("clip(norm=7.0) 7")
    assert "; the 3 others cost no more." in cost


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
    [verdict] = verdicts(leaderboard.build(table.frame(strong + lucky)))
    assert (verdict.best["attack_label"], verdict.kind) == ("a", "partly")


def test_a_guarantee_has_both_accountants_and_what_was_rebuilt_all_the_same(report_inputs, pictures):
    def private(epsilon, attack="inverting_gradients", ssim=0, **values):
        parts = json.dumps([{"name": "dp_sgd", "noise_multiplier": 8 / epsilon}])
        return [
            row(client=c, defense=f"dp {epsilon}", defense_params=parts, epsilon=epsilon, delta=1e-5, attack=attack,
                psnr=12.0, leaked_ssim=c < ssim, **values)
            for c in range(8)
        ]  # fmt: skip

    rows = [*private(8.0, epsilon_prv=7.25), *private(2.0, ssim=1), *private(2.0, "well_informed", ssim=3, oracle=True)]
    page = report.html(table.frame([*rows, *private(2.0, "null_mean", ssim=8)]), pictures, **report_inputs)
    held, leaked = (line.split("</tr>")[0] for line in page.split("ε, Rényi")[1].split("dp ")[1:3])
    assert "<td>8</td>" in held
    assert "<td>7.25</td>" in held
    assert "none of 8 images" in held
    assert "<td>–</td>" in leaked
    assert "3 of 8 images, by well informed" in leaked


def test_what_a_defense_made_of_the_images_has_scores_beside_the_score(report_inputs, pictures):
    def page(**values):
        parts = json.dumps([{"name": "oasis"}])
        rows = [row(client=c, defense="oasis", defense_params=parts, psnr=30.0, **values) for c in range(6)]
        return report.html(table.frame(rows), pictures, **report_inputs)

    turned = page(psnr_original=9.25, psnr_trained=30.5)
    assert turned.count(">original 9.2</span>") == 2  # at a glance, and on the board
    assert turned.count(">trained on 30.5</span>") == 2
    mixed = page(psnr_trained=30.5)
    assert "original 9.2" not in mixed
    assert mixed.count(">trained on 30.5</span>") == 2
    assert "trained on 30" not in page()


def test_over_what_the_accuracys_interval_is_told(report_inputs, pictures):
    def page(seeds):
        rows = [row(client=c, seed=s, cell=f"{s}", utility=0.9 + s / 100) for s in range(seeds) for c in range(6)]
        return report.html(table.frame(rows), pictures, **report_inputs)

    assert "over test images alone: it was measured with one seed" in page(1)
    assert "over seeds (3) and test images." in page(3)


def test_the_answer_names_the_cost_in_accuracy():
    plain = board_rows(inverting_gradients=40.0).with_columns(utility=0.9)
    text = answer(pl.concat([plain, defended(12.0, utility=pl.lit(0.85))]))
    assert "percentage points at most: clip(norm=1.0) 5." in text
    assert "What the defenses cost in accuracy was not measured." in answer(plain.with_columns(utility=pl.lit(None)))


def test_the_threat_model_says_what_an_attack_was_given_besides(results):
    general, exceptions = prose.threat_model(leaderboard.build(results))
    assert "It does not know the dropout masks that a client drew." in general
    assert exceptions == [
        ("well_informed", ["It was told the dropout masks that each client drew, which no real server knows."])
    ]


def test_what_the_server_sees_is_told_of_the_defense_that_decides_it(results):
    secure = (pl.col("defense") == results["defense"][-1]) & (pl.col("attack") != "well_informed")
    seen = pl.when(secure).then(pl.lit("sum_of_8")).otherwise("threat_aggregation").alias("threat_aggregation")
    board = leaderboard.build(results.with_columns(seen))
    [label] = board.filter(pl.col("threat_aggregation") == "sum_of_8")["defense_label"].unique()
    _, exceptions = prose.threat_model(board)
    assert (label, ["It sees only the sum over 8 clients."]) in exceptions


def test_every_value_of_the_threat_model_has_a_sentence():
    """Or it stands in a report as a bare word."""
    for name, kind in get_type_hints(ThreatModel).items():
        for value in get_args(kind):
            assert value in prose._THREATS[name], (name, value)


def test_a_panel_shows_worst_median_and_best_of_its_strongest_attack(results, pictures):
    for panel in gallery.panels(results, pictures, victims=4):
        own = results.filter(
            pl.col("status") == "ok",
            pl.col("model") == panel.setting.split(" · ")[1],
            pl.col("defense") == panel.defense,
        )
        real = own.filter(pl.col("attack").is_in(["inverting_gradients", "dropout_inversion"]))
        best = real.group_by("attack").agg(pl.col("psnr").median()).sort("psnr")["attack"][-1]
        ranking = own.filter(pl.col("attack") == best).sort("psnr")
        clients = [f"client {client}" for client in ranking["client"]]
        assert panel.victims[0] == clients[0]
        assert clients[(VICTIMS - 1) // 2] in panel.victims
        assert len(panel.victims) == 4
        shown = next(line for line in panel.rows if line.label == best)
        scores = [tile.psnr for tile in shown.tiles if tile.psnr is not None]
        assert scores == sorted(scores)
        stack, _ = pictures("mlp/0/null_mean")
        for name, tile in zip(panel.victims, panel.originals):
            if tile.image is not None:
                np.testing.assert_array_equal(tile.image, stack[int(name.split()[1])])


@pytest.mark.parametrize(("count", "most"), [(9, 8), (64, 8), (7, 8), (100, 5), (3, 3)])
def test_the_places_shown_are_first_middle_last_and_none_twice(count, most):
    places = gallery.spread(count, most)
    assert len(places) == len(set(places)) == min(count, most)
    assert {0, (count - 1) // 2, count - 1} <= set(places)
    assert places == sorted(places)


def test_every_victim_is_shown_when_asked_for(results, pictures, report_inputs):
    panel = next(iter(gallery.panels(results, pictures, victims=None)))
    assert len(panel.victims) == VICTIMS == panel.total
    assert [len(block.originals) for block in panel.blocks(8)] == [8, 2]
    page = report.html(results, pictures, **report_inputs, every_victim=True)
    assert all(f"client {client}" in page for client in range(VICTIMS))


def test_captions_are_the_scores_of_the_picture_above_them(results, pictures):
    panel = next(iter(gallery.panels(results, pictures)))
    first = next(line for line in panel.rows if line.label == "inverting_gradients")
    own = results.filter(
        pl.col("model") == "mlp", pl.col("defense") == "none", pl.col("attack") == "inverting_gradients"
    )
    expected = {f"client {client}": psnr for client, psnr in own.select("client", "psnr").iter_rows()}
    assert [tile.psnr for tile in first.tiles] == [expected[name] for name in panel.victims]
    assert len(first.tiles) == min(8, VICTIMS)


def test_a_strip_holds_the_pixels_of_its_pictures_and_nothing_where_one_is_missing():
    images = [np.random.default_rng(i).integers(0, 256, (28, 28, 1), dtype=np.uint8) for i in range(2)]
    made = strips.strip([gallery.Tile(images[0]), gallery.Tile(None, why="failed"), gallery.Tile(images[1])])
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(made.address.split(",")[1]))).convert("RGBA"))
    assert pixels.shape == (made.height, made.width, 4) == (28, 3 * 28 + 2 * 2, 4)
    np.testing.assert_array_equal(pixels[:, :28, :3], images[0].repeat(3, 2))
    np.testing.assert_array_equal(pixels[:, 60:, :3], images[1].repeat(3, 2))
    assert (pixels[:, 28:60, 3] == 0).all()
    assert strips.strip([gallery.Tile(None)]) is None


def test_large_pictures_are_reduced():
    made = strips.strip([gallery.Tile(np.zeros((224, 224, 3), np.uint8))])
    assert (made.width, made.height) == (128, 128)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_figure_is_a_png_of_the_panels(channels):
    def stack(job):
        originals, rebuilt = (np.full((VICTIMS, 8, 8, channels), level, np.uint8) for level in (0, 255))
        return originals, rebuilt

    image = imread(io.BytesIO(picture_grid.grid(make_results(), stack, victims=2, dpi=60)), format="png")
    assert image.ndim == 3
    assert (image[..., :3].max(axis=2) == 0).any()  # the black originals


def test_the_figure_says_that_there_is_nothing(pictures):
    assert picture_grid.grid(table.empty(), pictures).startswith(b"\x89PNG")


def strengths(results):
    found = {}
    for setting, axis, figure in charts.score_against_strength(leaderboard.build(results)):
        found[setting, axis] = {line.name: (list(line.x), list(line.y)) for line in figure.data}
    return found


def test_the_dropout_chart_holds_what_only_dropout_defends(results):
    charted = strengths(results)
    assert list(charted) == [("mnist · mlp", "dropout rate"), ("mnist · lenet", "dropout rate")]
    drawn = charted["mnist · mlp", "dropout rate"]
    assert drawn["inverting_gradients"][0] == [0.0, 0.25, 0.5]
    assert drawn["well_informed, oracle"][0] == [0.25, 0.5]


def test_one_strength_makes_no_chart():
    assert strengths(board_rows(inverting_gradients=20.0)) == {}


def test_any_parameter_of_a_defense_that_varies_alone_is_a_strength():
    def under(*parts, psnr, epsilon=None):
        label = " + ".join(f"{part['name']}({part})" for part in parts)
        return [
            row(client=c, defense=label, defense_params=json.dumps(parts), psnr=psnr, epsilon=epsilon) for c in (0, 1)
        ]

    noises = [under({"name": "gaussian_noise", "std": s}, psnr=p) for s, p in ((0.1, 10.0), (0.001, 40.0))]
    norms = [under({"name": "clip", "norm": n}, {"name": "prune", "rate": 0.5}, psnr=20.0 + n) for n in (1.0, 2.0)]
    private = [
        under({"name": "dp_sgd", "noise": n, "clip": n}, psnr=10 * e, epsilon=e) for n, e in ((1.0, 3.0), (2.0, 1.0))
    ]
    charted = {
        axis: lines
        for (_, axis), lines in strengths(table.frame([r for rs in noises + norms + private for r in rs])).items()
    }
    assert set(charted) == {"std of gaussian_noise", "norm of clip + prune (rate=0.5)", "ε of dp_sgd"}
    assert charted["std of gaussian_noise"]["inverting_gradients"] == ([0.001, 0.1], [40.0, 10.0])
    assert charted["norm of clip + prune (rate=0.5)"]["inverting_gradients"] == ([1.0, 2.0], [21.0, 22.0])
    assert charted["ε of dp_sgd"]["inverting_gradients"] == ([1.0, 3.0], [10.0, 30.0])


def test_the_frontier_is_what_no_other_defense_beats_in_both():
    points = [(0.9, 60.0), (0.9, 50.0), (0.8, 55.0), (0.7, 20.0), (0.6, 20.0), (0.5, 10.0)]
    assert sweeps.frontier(points) == [(0.5, 10.0), (0.7, 20.0), (0.9, 50.0)]


def test_the_distribution_holds_every_image(results):
    rows = leaderboard.labelled(results)
    drawn = [
        (setting, defense, box.name.split(",")[0], sorted(box.x))
        for setting, defense, figure in charts.score_distribution(rows)
        for box in figure.data
    ]
    ok = rows.filter(pl.col("status") == "ok")
    assert sum(len(xs) for *_, xs in drawn) == len(ok)
    for setting, defense, attack, xs in drawn:
        own = ok.filter(
            pl.col("setting_label") == setting,
            pl.col("defense_label").str.replace_all("<", "&lt;", literal=True) == defense.replace("<", "&lt;"),
            pl.col("attack") == attack,
        )
        assert xs == pytest.approx(sorted(own["psnr"]), abs=0.006)


def test_the_box_of_a_large_run_is_the_box_of_its_points():
    psnr = np.random.default_rng(0).normal(30, 5, charts.MOST_POINTS + 1).round(2)
    rows = leaderboard.labelled(table.frame([row(client=c, psnr=p) for c, p in enumerate(psnr.tolist())]))
    [(_, _, figure)] = charts.score_distribution(rows)
    [box] = figure.data
    assert box.x is None
    assert (box.q1[0], box.median[0], box.q3[0]) == pytest.approx(tuple(np.percentile(psnr, [25, 50, 75])))
    assert psnr.min() <= box.lowerfence[0] <= box.q1[0]


@pytest.mark.parametrize(
    ("text", "first", "rest"),
    [
        ("Does it help? Two models\non MNIST. At p = 0.5.", "Does it help?", "Two models\non MNIST. At p = 0.5."),
        ("mlp", "mlp", ""),
        ("Learning rate 0.1 and 1. 5 rounds", "Learning rate 0.1 and 1. 5 rounds", ""),
        ("A <b>. C", "A <b>.", "C"),
    ],
)
def test_the_heading_is_the_first_sentence_of_the_description(text, first, rest):
    assert prose.headline(text) == (first, rest)

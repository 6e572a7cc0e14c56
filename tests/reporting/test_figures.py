"""Static figures: what they show against the board, and the promises of the files."""

import html
import io
import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest
from made_up_run import HOSTILE, board_rows, make_pictures, make_results
from matplotlib.figure import Figure
from PIL import Image

from fedsim import table
from fedsim.errors import BadInput
from fedsim.files import write_json
from fedsim.reporting import leaderboard, paper
from fedsim.reporting.paper import curves, plots, style
from fedsim.runs.directory import RunDirectory
from fedsim.runs.losses import by_row
from fedsim.runs.results import score_key_of

NO_LOSSES = {}


def one_setting():
    return make_results().filter(pl.col("model") == "mlp")


def drawn(panel):
    """The axes of one panel."""
    axes = Figure().add_subplot()
    panel.draw(axes)
    return axes


def points(axes, label):
    return [(line.get_xdata(), line.get_ydata()) for line in axes.lines if line.get_label() == f"_{label}"]


def text_of(svg):
    """Every text that an SVG draws: matplotlib leaves it as a comment beside its glyphs."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    tree = ElementTree.fromstring(svg, parser)
    return html.unescape(" ".join(" ".join(part.text.split()) for part in tree.iter(ElementTree.Comment)))


def write(results, directory, format="svg", losses=NO_LOSSES, wide=False):
    made = paper.draw(results, make_pictures, losses, directory=directory, format=format, wide=wide)
    return {figure.name: figure for figure in made}


def test_the_dropout_figure_has_the_medians_of_the_board():
    rows = leaderboard.labelled(one_setting())
    board = leaderboard.build(one_setting())
    first, *_ = plots.psnr_by_strength(board, plots.attack_keys(rows))
    lines = dict(zip([key.label for key in first.keys], points(drawn(first), "medians")))
    assert set(lines) == {
        "inverting_gradients",
        "dropout_inversion",
        "well_informed, oracle",
        "null_mean, floor",
        "null_random, floor",
    }
    for defense, rate in (("none", 0.0), ("dropout(p=0.25)", 0.25), ("dropout(p=0.5)", 0.5)):
        [median] = board.filter(attack="dropout_inversion", defense=defense)["psnr"]
        xs, ys = lines["dropout_inversion"]
        assert ys[list(xs).index(rate)] == median
    assert list(lines["well_informed, oracle"][0]) == [0.25, 0.5]


def test_intervals_reach_the_ends_of_the_boards():
    board = leaderboard.build(board_rows(inverting_gradients=20.0).with_columns(utility=pl.lit(0.5)))
    [panel] = plots.privacy_utility(board)
    axes = drawn(panel)
    [segment] = axes.collections[0].get_segments()
    assert segment[:, 1].tolist() == [board["psnr_low"][0], board["psnr_high"][0]]
    assert [(x.tolist(), y.tolist()) for x, y in points(axes, "medians")] == [([50.0], [board["psnr"][0]])]


def test_privacy_against_utility_has_the_strongest_attack_of_each_defense():
    board = leaderboard.build(one_setting())
    [panel] = plots.privacy_utility(board)
    shown = {(float(x[0]), float(y[0])) for x, y in points(drawn(panel), "medians")}
    best = leaderboard.strongest(board)
    assert shown == set(zip((100 * best["utility"]).to_list(), best["psnr"].to_list()))
    assert len(shown) == 5


def test_the_distribution_has_every_image():
    rows = leaderboard.labelled(one_setting())
    panels = {panel.title: panel for panel in plots.psnr_distribution(rows, plots.attack_keys(rows))}
    for title, panel in panels.items():
        scored = rows.filter((pl.col("defense_label") == title) & (pl.col("status") == "ok"))
        values = np.concatenate([x for x, _ in points(drawn(panel), "images")])
        assert sorted(values) == sorted(scored["psnr"])
    assert len(panels) == 5


def test_mask_accuracy_is_the_mean_by_layer():
    rows = leaderboard.labelled(one_setting())
    layers = pl.Series(['{"drop.0": 0.5, "drop.1": 0.9}', '{"drop.0": 0.7}'] * 5)
    chosen = rows.filter((pl.col("attack") == "dropout_inversion") & (pl.col("defense") == "dropout(p=0.5)"))
    [panel] = plots.mask_accuracy(chosen.with_columns(mask_accuracy_layers=layers), plots.attack_keys(rows))
    axes = drawn(panel)
    [(accuracy, places)] = points(axes, "layers")
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert {names[at]: value for at, value in zip(places, accuracy)} == pytest.approx({"drop.0": 60.0, "drop.1": 90.0})


def test_a_curve_that_ended_counts_with_its_last_value():
    losses = {"a": {0: [(0, 1.0), (10, 0.1)], 1: [(0, 1.0), (20, 0.5)], 2: [(0, 1.0), (20, float("nan"))]}}
    rows = pl.DataFrame({"job": ["a"] * 3, "client": [0, 1, 2]})
    iterations, (_, middle, _) = curves.of_rows(rows, losses)
    assert iterations.tolist() == [0, 10, 20]
    assert middle == pytest.approx([1.0, (0.1 + 0.75) / 2, (0.1 + 0.5) / 2])  # the third has one point: no curve
    assert curves.of_rows(rows, {}) is None


def test_curves_are_found_by_the_key_of_the_scores(tmp_path):
    directory = RunDirectory(tmp_path)
    write_json(tmp_path / "fedsim-run.json", {"name": "x", "scenario": {"metrics": ["psnr"]}})
    accounts = {"0": {"status": "ok", "losses": [[0, 1.0], [10, 0.5]]}, "3": {"status": "not_applicable"}}
    write_json(directory.job("abc") / "job.json", {"clients": accounts})
    summed = {"-1": {"status": "ok", "of": [0, 4], "losses": [[0, 2.0]]}}
    write_json(directory.job("sum") / "job.json", {"clients": summed})
    write_json(directory.job("without") / "job.json", {"clients": {"0": {"losses": []}}})
    write_json(directory.job("damaged") / "job.json", [])
    assert by_row(directory) == {
        score_key_of("abc", ["psnr"]): {0: [(0, 1.0), (10, 0.5)], 3: []},
        score_key_of("sum", ["psnr"]): {0: [(0, 2.0)], 4: [(0, 2.0)]},
    }


def test_figures_of_a_hostile_run(tmp_path):
    """Every figure, twice: text is text, the bytes are the same, what does not fit goes on in another file."""
    kept = pl.col("defense").is_in(["none", "dropout(p=0.25)"]) | pl.col("defense").str.contains(HOSTILE, literal=True)
    results = (
        one_setting().filter(kept).with_columns(pl.col("defense").str.replace("none", "no_ne $x$ %", literal=True))
    )
    jobs = results.filter(pl.col("attack") == "dropout_inversion")["job"].drop_nulls().unique()
    losses = {job: {client: [(0, 1.0), (500, 10.0**-client)] for client in range(4)} for job in jobs}
    first = write(results, tmp_path / "a", losses=losses)
    assert all(figure.files and not figure.why_not for figure in first.values())
    assert len(first) == 6
    write(results, tmp_path / "b", losses=losses)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    assert (tmp_path / "a" / "reconstructions-2.svg").exists()
    for name in ("privacy-utility", "psnr-distribution", "reconstructions", "attack-loss"):
        svgs = [file.read_text() for file in first[name].files]
        text = " ".join(map(text_of, svgs))
        assert HOSTILE.replace(" ", "") in text.replace(" ", "")
        assert "no_ne $x$ %" in text
        assert not any("<script" in re.sub("<!--.*?-->", "", svg, flags=re.S) for svg in svgs)


@pytest.mark.parametrize(("wide", "inches"), [(False, style.COLUMN), (True, style.WIDE)])
def test_a_figure_is_as_wide_as_a_column(wide, inches):
    rows = leaderboard.labelled(make_results())
    keys = plots.attack_keys(rows)
    pages = list(style.pages(plots.psnr_distribution(rows, keys), wide=wide))
    assert len(pages) > 1
    for page in pages:
        width, height = page.get_size_inches()
        assert width == pytest.approx(inches)
        assert height <= style.PAGE
    fewer = plots.psnr_distribution(rows.filter(pl.col("defense") == "none"), keys)
    assert [len(page.axes) for page in style.pages(fewer, wide=wide)] == [2]


@pytest.mark.parametrize(("psnr", "side"), [([40, 17], 0), ([17, 40], 1)])
def test_the_leaks_line_is_named_where_nothing_is_drawn(psnr, side):
    def draw(axes):
        axes.plot([0, 1], psnr)
        plots.psnr_axis(axes)

    [named] = drawn(style.Panel("", "", "", "", draw)).texts
    assert named.xy[0] == side


def test_the_leaks_line_has_no_name_where_it_is_not_drawn():
    """Words are not cut off where the axes end: they would stand in the panel above."""

    def draw(axes):
        axes.plot([0, 1], [4, 11])
        plots.psnr_axis(axes)

    assert not drawn(style.Panel("", "", "", "", draw)).texts


def test_a_panel_alone_is_as_wide_as_its_page():
    panel = style.Panel("", "", "", "", lambda axes: None)
    [alone], [two] = (list(style.pages([panel] * count, wide=True)) for count in (1, 2))
    assert alone.axes[0].get_position().width > 1.9 * two.axes[0].get_position().width


def test_no_text_leaves_the_figure():
    """Also the longest name stays within the column: it is broken into lines."""
    long = "a_rather_long_name_of_an_attack_by_us"
    results = make_results().with_columns(pl.col("attack").replace("null_mean", long))
    rows, board = leaderboard.labelled(results), leaderboard.build(results)
    keys = plots.attack_keys(rows)
    with mpl.rc_context(style.RC):
        for panels in (
            plots.psnr_by_strength(board, keys),
            plots.privacy_utility(board),
            plots.psnr_distribution(rows, keys),
            plots.mask_accuracy(rows, keys),
        ):
            for page in style.pages(panels, wide=False):
                paper.to_bytes(page, "png")
                box = page.get_tightbbox()
                width, height = page.get_size_inches()
                assert box.x0 > -0.02
                assert box.y0 > -0.02
                assert box.x1 < width + 0.02
                assert box.y1 < height + 0.02


def test_formats(tmp_path):
    panel = plots.privacy_utility(leaderboard.build(one_setting()))
    with mpl.rc_context(style.RC):
        [page] = style.pages(panel, wide=False)
        pdf, png = paper.to_bytes(page, "pdf"), paper.to_bytes(page, "png")
    assert pdf.startswith(b"%PDF-")
    assert b"/FontFile2" in pdf  # TrueType, embedded
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    assert Image.open(io.BytesIO(png)).width == round(3.3 * 300)
    with pytest.raises(BadInput, match="--format gif: no such format; there are pdf, svg, png"):
        write(one_setting(), tmp_path, "gif")
    assert not list(tmp_path.iterdir())


def test_a_figure_with_nothing_to_draw_says_why(tmp_path):
    made = write(board_rows(inverting_gradients=20.0), tmp_path)
    assert {name: figure.why_not for name, figure in made.items() if not figure.files} == {
        "psnr-by-strength": "nothing that sets a defense's strength takes two values",
        "privacy-utility": "no utility was measured, or no attack scored",
        "attack-loss": "no job kept a loss curve",
        "mask-accuracy": "no attack estimated masks",
    }
    assert {file.name for file in tmp_path.iterdir()} == {"reconstructions.svg", "psnr-distribution.svg"}
    [nothing] = write(table.empty(), tmp_path / "empty").values()
    assert (nothing.files, nothing.why_not) == ([], "there are no results yet")

"""The report in a real browser: no error, no request, the numbers of the table, readable on a phone."""

import os
import re
import shutil

import polars as pl
import pytest
from made_up_run import DEFENSES, make_history, make_pictures, make_results

from fedsim.reporting import leaderboard, report
from fedsim.reporting.leaderboard import strongest
from fedsim.runs.reading import Missing

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="no chromium on this machine")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return written(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """The same report with its sections folded, as those of a large run are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "FOLDED", 2)
        return written(tmp_path_factory.mktemp("folded"))


def written(folder):
    path = folder / "report.html"
    page = report.html(
        make_results(),
        make_pictures,
        scenario={"name": "made-up", "description": "Does dropout protect a client?"},
        history=make_history(),
        command="fedsim run made-up",
        versions={"fedsim": "0.1.0"},
        missing=Missing(12, ("mlp, none, seed 1",), 50, (("dropout_inversion", 2),)),
    )
    path.write_text(page)
    return path.as_uri()


@pytest.fixture(
    scope="module", params=[("light", 1200), ("dark", 1200), ("light", 390)], ids=["light", "dark", "phone"]
)
def opened(request, browser, address):
    """The page, and what went wrong or was asked for while it was opened."""
    scheme, width = request.param
    trouble = []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("console", lambda message: trouble.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on(
        "request",
        lambda asked: trouble.append(f"request: {asked.url}") if not asked.url.startswith((address, "data:")) else None,
    )
    page.goto(address)
    page.wait_for_function("window.Plotly")
    page.evaluate("document.querySelectorAll('.plot').forEach(draw)")
    yield page, trouble
    page.close()


def test_it_opens_without_an_error_or_a_request_and_runs_no_name(opened):
    page, trouble = opened
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert trouble == []
    assert page.evaluate("window.hacked") is None


def test_nothing_sticks_out_sideways(opened):
    page, _ = opened
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_numbers_of_the_page_are_those_of_the_table(opened):
    page, _ = opened
    shown = page.evaluate(
        """[...document.querySelectorAll("#leaderboard ~ .scroll .board tr[data-attack]")].map(row => [
            row.dataset.setting, row.dataset.defense, row.dataset.attack,
            row.querySelector(".psnr b").textContent, row.querySelector(".leaked").firstChild.textContent])"""
    )
    board = leaderboard.build(make_results())
    expected = [
        [
            r["setting_label"],
            r["defense_label"],
            r["attack_label"],
            f"{r['psnr']:.1f}",
            f"{100 * r['leaked_psnr']:.0f} %",
        ]
        for r in board.to_dicts()
        if r["answered"]
    ]
    assert shown == expected


def charted(page, section):
    """The charts between a section's heading and the next: title, and each series' name, x and y."""
    return page.evaluate(
        """section => { const found = []; let place = document.getElementById(section);
            while ((place = place.nextElementSibling) && place.tagName !== "H2")
                for (const plot of place.querySelectorAll(".plot"))
                    found.push([plot.parentElement.querySelector("h3").textContent,
                        plot.data.map(line => [line.name.replaceAll("&lt;", "<").replaceAll("&gt;", ">"),
                            [...line.x], line.y ? [...line.y] : null])]);
            return found; }""",
        section,
    )


def test_the_points_of_single_images_are_the_rows_of_the_table(opened):
    page, _ = opened
    rows = leaderboard.labelled(make_results()).filter(pl.col("status") == "ok")
    shown = {
        (title, name.split(", ")[0]): sorted(x) for title, lines in charted(page, "spread") for name, x, _ in lines
    }
    expected = {
        (f"{setting}: {defense}", attack): sorted(own["psnr"])
        for (setting, defense, attack), own in rows.group_by("setting_label", "defense_label", "attack_label")
    }
    assert shown.keys() == expected.keys()
    for key, values in expected.items():
        assert shown[key] == pytest.approx(values, abs=0.0051), key  # two decimals on the page


def test_the_trade_off_chart_holds_the_defenses_and_their_frontier(opened):
    page, _ = opened
    best = strongest(leaderboard.build(make_results())).filter(pl.col("utility").is_not_null())
    for title, lines in charted(page, "utility"):
        own = best.filter(pl.col("setting_label") == title)
        shown = {name: (x[0], y[0]) for name, x, y in lines if name != "frontier"}
        assert set(shown) == set(own["defense_label"]) == set(DEFENSES)
        for row in own.to_dicts():
            assert shown[row["defense_label"]] == pytest.approx((100 * row["utility"], row["psnr"]))
        [edge] = [set(zip(x, y)) for name, x, y in lines if name == "frontier"]
        assert edge == {
            point
            for point in shown.values()
            if not any(o != point and o[0] >= point[0] and o[1] <= point[1] for o in shown.values())
        }


def test_the_strength_chart_holds_the_medians_of_the_board(opened):
    page, _ = opened
    board = leaderboard.build(make_results())
    [(title, lines), _] = charted(page, "strength")
    assert title == "mnist · mlp: dropout rate"
    for name, x, y in lines:
        own = board.filter(
            pl.col("setting_label") == "mnist · mlp",
            pl.col("attack_label") == name.split(", ")[0],
            pl.col("defense_label").is_in(["none", "dropout(p=0.25)", "dropout(p=0.5)"]),
        ).filter(pl.col("answered") > 0)
        assert list(zip(x, y)) == sorted(own.select("dropout", "psnr").iter_rows())


def test_a_column_is_one_victim_and_the_numbers_stand_under_the_pictures(opened):
    page, _ = opened
    gaps = page.evaluate(
        """[...document.querySelectorAll(".panel")].flatMap(panel => {
            panel.style.contentVisibility = "visible";
            const shown = [...panel.querySelectorAll(".tiles")].filter(t => t.querySelector("img"));
            const widths = shown.map(t => t.querySelector("img").getBoundingClientRect().width);
            const strip = shown[1], picture = strip.querySelector("img").getBoundingClientRect();
            const n = strip.querySelectorAll(".db span").length;
            const off = [...strip.querySelectorAll(".db span")].map((span, i) => {
                const box = span.getBoundingClientRect(), middle = picture.width * (15 * i + 7) / (15 * n - 1);
                return Math.abs((box.left + box.right) / 2 - picture.left - middle);
            });
            return [Math.max(...widths) - Math.min(...widths), ...off]; })"""
    )
    assert max(gaps) < 2


def test_the_drawing_of_the_threat_model_fits_the_screen_and_says_what_it_is(opened):
    page, _ = opened
    drawings = page.locator("svg.threat:visible")
    assert drawings.count() == 1
    wide = page.viewport_size["width"] > 640
    assert ("wide" in drawings.first.get_attribute("class")) == wide
    assert page.evaluate(
        """[...document.querySelectorAll("svg.threat text")].filter(t => t.getClientRects().length).every(t => {
            const box = t.getBoundingClientRect(), own = t.closest("svg").getBoundingClientRect();
            return box.left >= own.left && box.right <= own.right && box.height > 8; })"""
    )


def test_nothing_violates_wcag_a_and_aa(opened):
    from axe_playwright_python.sync_playwright import Axe

    page, _ = opened
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
    assert found.violations_count == 0, found.generate_report()


def test_the_keyboard_goes_through_the_page_in_its_order(opened):
    page, _ = opened
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    stops = page.evaluate("document.querySelectorAll('a, summary, [tabindex=\"0\"]').length")
    places = []
    for _ in range(stops):
        page.keyboard.press("Tab")
        places.append(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert places == sorted(set(places))


def test_a_chart_is_drawn_when_it_comes_into_sight_and_not_before(browser, address):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(address)
    page.wait_for_function("window.Plotly")
    assert page.locator(".plot[data-drawn]").count() == 0
    page.locator("#utility").scroll_into_view_if_needed()
    page.wait_for_selector("#utility + .chart .plot[data-drawn] .main-svg")
    assert page.locator(".plot:not([data-drawn])").count() > 0
    page.close()


def test_a_folded_section_opens_with_its_charts(browser, folded):
    page = browser.new_page(viewport={"width": 390, "height": 900}, color_scheme="dark")
    page.goto(folded)
    page.wait_for_function("window.Plotly")
    folds = page.locator("#spread ~ details:has(.plot)")
    assert folds.evaluate_all("folds => folds.map(fold => fold.open)") == [True, False]
    folds.nth(1).locator("summary").press("Enter")
    folds.nth(1).locator(".plot[data-drawn] .main-svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()


def test_it_prints_with_every_chart_and_picture(browser, folded):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(folded)
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert page.locator(".plot:not([data-drawn])").count() == 0
    assert page.locator("details:not([open])").count() == 0
    strips = re.findall(rb"/Subtype /Image\n/Width 238\n/Height 28\n/ColorSpace \[", printed)  # 8 digits and 7 gaps
    assert len(strips) == len(set(page.evaluate("[...document.images].map(image => image.src)")))
    page.close()


def test_text_can_be_read_against_the_paper(opened):
    page, _ = opened
    paper, ink, chart = page.evaluate(
        """(() => { const of = (s, k) => getComputedStyle(document.querySelector(s))[k];
            return [of("body", "backgroundColor"), of("body", "color"), of(".plot .xtick text", "fill")]; })()"""
    )
    light = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (paper, ink, chart)]
    assert abs(light[0] - light[1]) > 450
    assert light[1] == light[2]

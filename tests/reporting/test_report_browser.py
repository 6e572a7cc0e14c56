"""The report in a real browser: no error, no request, the numbers of the table, readable on a phone."""

import os
import shutil

import pytest
from made_up_run import DEFENSES, make_history, make_pictures, make_results

from fedsim.reporting import leaderboard, report

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
    path = tmp_path_factory.mktemp("report") / "report.html"
    page = report.html(
        make_results(),
        make_pictures,
        scenario={"name": "made-up", "description": "Does dropout protect a client?"},
        history=make_history(),
        command="fedsim run made-up",
        versions={"fedsim": "0.1.0"},
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
    page.wait_for_function(
        "document.querySelectorAll('.plot').length === document.querySelectorAll('.plot .xaxislayer-above').length"
    )
    yield page, trouble
    page.close()


def test_it_opens_without_an_error_or_a_request_and_runs_no_name(opened):
    page, trouble = opened
    page.wait_for_timeout(200)
    assert trouble == []
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


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
        if r["n"]
    ]
    assert shown == expected


def test_the_charts_draw_the_medians_and_name_the_defenses(opened):
    page, _ = opened
    drawn = page.evaluate("[...document.querySelectorAll('.plot')].flatMap(p => p.data.flatMap(d => d.y))")
    best = leaderboard.build(make_results()).filter(role="attack")["psnr"].max()
    assert any(value == pytest.approx(best) for value in drawn if value is not None)
    legends = page.evaluate("[...document.querySelectorAll('.plot .legendtext')].map(t => t.textContent)")
    assert set(DEFENSES) <= set(legends)


def test_text_can_be_read_against_the_paper(opened):
    page, _ = opened
    paper, ink, chart = page.evaluate(
        """(() => { const of = (s, k) => getComputedStyle(document.querySelector(s))[k];
            return [of("body", "backgroundColor"), of("body", "color"), of(".plot .xtick text", "fill")]; })()"""
    )
    light = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (paper, ink, chart)]
    assert abs(light[0] - light[1]) > 450
    assert light[1] == light[2]

"""The leaderboard's site in a real browser: sorting, filtering, pictures, keyboard, accessibility, speed."""

import importlib.util
import io
import os
import shutil
import statistics
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_run import HOSTILE, SCENARIO, make_pictures, make_results
from PIL import Image

from fedsim.reporting import entries, site
from fedsim.reporting.site.board import board_of
from fedsim.reporting.verdicts import IN_WORDS

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="no chromium on this machine")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
ATTACKS = "[data-board=attacks]"
DEFENSES = "[data-board=defenses]"
SHOWN = "tbody:not([hidden]) tr[data-stem]:not([hidden])"
WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "preload": False}
"""For axe; preloading would ask for the style sheet, which a page from a file may not."""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """The site of the made-up run, and the entries that it was built from."""
    folder = tmp_path_factory.mktemp("board")
    results = make_results().with_columns(
        pl.when(pl.col("attack") == "dropout_inversion")
        .then(pl.lit(f"dia {HOSTILE}"))
        .otherwise(pl.col("attack"))
        .alias("attack")
    )
    marker = {"name": SCENARIO["name"], "scenario": SCENARIO, "command": f"fedsim run '{HOSTILE}'"}
    entries.submit(folder / "entries", results, make_pictures, marker)
    collection = entries.read(folder / "entries").entries
    site.write(folder / "site", collection, folder / "entries")
    return folder / "site", collection


@pytest.fixture
def visit(browser, board):
    """Open a page of the site; at the end of the test nothing may have gone wrong or been asked of the network."""
    trouble, contexts = [], []

    def opened(name="index.html", *, scheme="light", width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("requestfailed", lambda asked: trouble.append(f"failed: {asked.url}"))
        page.on(
            "request",
            lambda asked: asked.url.startswith(("file:", "data:")) or trouble.append(f"request: {asked.url}"),
        )
        page.goto(f"{board[0].as_uri()}/{name}")
        return page

    yield opened
    for context in contexts:
        for page in context.pages:
            if page.evaluate("window.hacked") is not None:
                trouble.append("a name was run")
        context.close()
    assert trouble == []


def kinds(target):
    """One page of each kind; the first attack page is the one with a hostile name."""
    return [sorted(target.glob(f"{kind}*.html"))[0].name for kind in ("index", "scenario", "attack", "defense")]


def column(page, table, number):
    return page.locator(f"{table} {SHOWN} > :nth-child({number})").all_inner_texts()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_pages_open_fit_and_are_accessible(visit, board, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    for name in kinds(board[0]):
        page = visit(name, scheme=scheme, width=width)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        found = Axe().run(page, options=WCAG)
        assert found.response["violations"] == [], found.generate_report()
        page.locator("a[data-entry]:visible").first.press("Enter")
        page.locator("dialog[open]").wait_for()
        found = Axe().run(page, options=WCAG)
        assert found.response["violations"] == [], found.generate_report()
        page.context.close()


def test_dark_is_dark(visit):
    dark, light = (
        visit(scheme=scheme).evaluate(
            """["body", "select"].map(s => getComputedStyle(document.querySelector(s)).backgroundColor
                .match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0))"""
        )
        for scheme in ("dark", "light")
    )
    assert max(dark) < 150
    assert min(light) > 700


def test_oracles_and_floors_are_hidden_until_asked_for(visit, board):
    roles = [entry.attack.role for entry in board[1].values()]
    page = visit()
    assert page.locator(f"{ATTACKS} {SHOWN}").count() == roles.count("attack")
    page.get_by_label("oracles").check()
    assert page.locator(f"{ATTACKS} {SHOWN}").count() == roles.count("attack") + roles.count("oracle")
    page.get_by_label("floors").check()
    assert page.locator(f"{ATTACKS} {SHOWN}").count() == len(roles)
    assert page.locator(f"{ATTACKS} .count").text_content() == f"{len(roles)} of {len(roles)}"


def test_the_page_of_a_floor_shows_it(visit):
    assert visit("attack-null_mean.html").locator(f"{ATTACKS} {SHOWN}").count() > 0


def test_the_numbers_shown_are_those_of_the_entries(visit, board):
    page = visit("index.html#oracle=1&floor=1")
    shown = page.evaluate(
        """[...document.querySelectorAll("[data-board=attacks] tr[data-stem]")].map(row => [row.dataset.stem,
            row.querySelector(".psnr b").textContent, row.querySelector(".psnr .span").textContent,
            row.cells[4].textContent, row.cells[5].firstChild.textContent])"""
    )
    expected = [
        [
            stem,
            f"{entry.scores.psnr.value:.1f}",
            f"{entry.scores.psnr.low:.1f}–{entry.scores.psnr.high:.1f}",
            f"{entry.victims.answered} of {entry.victims.attacked}",
            f"{100 * entry.scores.leaked_psnr.value:.0f} %",
        ]
        for stem, entry in board[1].items()
    ]
    assert sorted(shown) == sorted(expected)
    worst = page.evaluate(
        """[...document.querySelectorAll("[data-board=defenses] tr[data-stem]")].map(row => [row.dataset.stem,
            row.cells[1].textContent, row.cells[3].firstChild.textContent, row.querySelector(".psnr b").textContent])"""
    )
    public = board_of(board[1])
    assert worst == [
        [
            one.strongest.stem,
            f"{one.rank}{'=' if one.tied else ''}" if one.rank else one.against_none,
            IN_WORDS[one.verdict.kind],
            f"{one.strongest.entry.scores.psnr.value:.1f}",
        ]
        for one in public.defenses
    ]


def by_heading(page, table, number):
    """The texts of a column's cells that are shown, in a list for each heading."""
    return page.evaluate(
        """([table, number]) => [...document.querySelectorAll(`${table} tbody:not([hidden])`)].map(body =>
            [...body.querySelectorAll("tr[data-stem]:not([hidden])")].map(row => row.cells[number - 1].innerText))""",
        [table, number],
    )


def test_headers_sort_under_each_heading_by_mouse_and_keyboard(visit):
    page = visit("index.html#oracle=1&floor=1")
    before = by_heading(page, ATTACKS, 4)
    button = page.locator(f"{ATTACKS} thead").get_by_role("button", name="PSNR, dB")
    head = page.locator(f"{ATTACKS} thead th").nth(3)
    button.click()
    groups = [[float(text.split()[0]) for text in texts] for texts in by_heading(page, ATTACKS, 4)]
    assert len(groups) == len(before) > 1
    assert max(map(len, groups)) > 2
    assert groups == [sorted(numbers, reverse=True) for numbers in groups]
    assert head.get_attribute("aria-sort") == "descending"
    button.press("Enter")
    assert [[float(text.split()[0]) for text in texts] for texts in by_heading(page, ATTACKS, 4)] == [
        sorted(numbers) for numbers in groups
    ]
    assert head.get_attribute("aria-sort") == "ascending"
    button.press("Space")
    assert by_heading(page, ATTACKS, 4) == before
    assert head.get_attribute("aria-sort") is None
    page.locator(f"{DEFENSES} thead").get_by_role("button", name="defense").click()
    for names in by_heading(page, DEFENSES, 3):
        assert names == sorted(names, key=str.casefold)
    assert by_heading(page, ATTACKS, 4) == before


def test_what_has_no_number_comes_last_either_way(visit):
    page = visit("index.html#oracle=1&floor=1")
    button = page.locator(f"{ATTACKS} thead").get_by_role("button", name="masks right")
    for _ in range(2):
        button.click()
        for texts in by_heading(page, ATTACKS, 10):
            numbers = [text for text in texts if text != "–"]
            assert texts == numbers + ["–"] * (len(texts) - len(numbers))
    assert any("–" not in texts[0] for texts in by_heading(page, ATTACKS, 10))


def test_a_heading_goes_with_the_last_of_its_rows(visit):
    page = visit()
    page.get_by_label("search").fill("gaussian")
    headings = page.locator(f"{ATTACKS} .heading:visible").all_inner_texts()
    assert len(headings) == 2
    assert all("gaussian_noise" in text for text in headings)


def test_filters_change_both_tables_and_are_kept_in_the_address(visit, board):
    ordinary = [entry for entry in board[1].values() if entry.attack.role == "attack"]
    page = visit()
    page.get_by_label("architecture").select_option("lenet")
    page.get_by_label("dropout rate").select_option("0.5")
    expected = [e for e in ordinary if e.setting.model == "lenet" and e.defense.dropout == 0.5]
    assert 0 < len(expected) == page.locator(f"{ATTACKS} {SHOWN}").count()
    assert column(page, DEFENSES, 3) == ["dropout(p=0.5)"]
    assert page.locator(f"{DEFENSES} .heading:visible").all_inner_texts()[0].startswith("mnist · lenet")
    page.locator(f"{ATTACKS} thead").get_by_role("button", name="seconds").click()
    state = (page.url, column(page, ATTACKS, 3))
    assert "model=lenet" in page.url
    page.reload()
    assert (page.url, column(page, ATTACKS, 3)) == state
    assert page.get_by_label("architecture").input_value() == "lenet"
    page.get_by_role("button", name="clear").click()
    page.wait_for_function("!location.hash.includes('lenet')")
    assert page.locator(f"{ATTACKS} {SHOWN}").count() == len(ordinary)


def test_search_finds_words_in_any_order(visit, board):
    page = visit()
    page.get_by_label("search").fill("GAUSSIAN inverting")
    expected = [
        e
        for e in board[1].values()
        if e.attack.name == "inverting_gradients" and e.defense.label.startswith("gaussian")
    ]
    assert page.locator(f"{ATTACKS} {SHOWN}").count() == len(expected) == 2
    page.get_by_label("search").fill(HOSTILE.split()[0])
    assert page.locator(f"{ATTACKS} {SHOWN}").count() > 0
    page.get_by_label("search").fill("no such thing")
    assert page.locator(f"{ATTACKS} .count").text_content().startswith("0 of ")


@pytest.mark.parametrize(
    "state", ["sort.attacks=999", "sort.attacks=x", "model=nothing", "oracle=", "%", "__proto__=1"]
)
def test_an_address_with_nonsense_shows_the_whole_table(visit, board, state):
    roles = [entry.attack.role for entry in board[1].values()]
    assert visit(f"index.html#{state}").locator(f"{ATTACKS} {SHOWN}").count() == roles.count("attack")


def test_a_thumbnail_opens_and_closes_and_gives_the_focus_back(visit, board):
    page = visit()
    link = page.locator(f"{ATTACKS} a[data-entry]:visible").nth(1)
    entry = board[1][link.get_attribute("data-entry")]
    link.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[open]")
    dialog.wait_for()
    assert entry.defense.label in dialog.locator("h2").inner_text()
    assert dialog.get_by_text(entry.source.command).count() == 1
    scores = dialog.locator(".pictures tr").nth(3).locator("td").all_inner_texts()
    assert scores == [f"{psnr:.1f}" for psnr in entry.picture.psnr]
    assert dialog.locator(".pictures .tile").count() == 3 * len(scores)
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("document.activeElement.dataset.entry") == link.get_attribute("data-entry")
    link.click()
    dialog.get_by_role("button", name="close").click()
    assert page.locator("dialog[open]").count() == 0


def test_the_tiles_are_cut_from_the_right_places_and_the_error_is_their_difference(visit, board):
    """Chromium's pixels in the middle of each tile against those of the entry's picture."""
    page = visit()
    link = page.locator(f"{ATTACKS} a[data-entry]:visible").first
    stem = link.get_attribute("data-entry")
    sheet = np.asarray(Image.open(board[0] / "pictures" / f"{stem}.png").convert("L")).astype(int)
    link.click()
    page.wait_for_timeout(200)
    tiles = page.locator("dialog .tile")
    victims = len(board[1][stem].picture.psnr)
    for victim in range(victims):
        seen = []
        for line in range(3):
            shot = Image.open(io.BytesIO(tiles.nth(line * victims + victim).screenshot())).convert("L")
            seen.append(np.asarray(shot.resize((28, 28), Image.Resampling.NEAREST)).astype(int)[4:24, 4:24])
        cut = slice(28 * victim + 4, 28 * victim + 24)
        original, rebuilt = sheet[4:24, cut], sheet[32:52, cut]
        for pixels, expected in zip(seen, (original, rebuilt, abs(original - rebuilt))):
            assert np.mean(abs(pixels - expected) <= 3) > 0.95


def test_thumbnails_are_loaded_when_they_come_into_view(browser, board):
    page = browser.new_page(viewport={"width": 390, "height": 300})
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith(".png") else None)
    page.goto((board[0] / "index.html").as_uri())
    assert page.locator("img:not([loading=lazy])").count() == 0
    last = page.locator(f"{ATTACKS} {SHOWN} img").last
    last.scroll_into_view_if_needed()
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=last.element_handle())
    hidden = [stem for stem, entry in board[1].items() if entry.attack.role == "floor"]
    assert not any(stem in url for stem in hidden for url in asked)
    page.close()


def test_without_javascript_the_tables_are_whole(visit, board):
    page = visit(java_script_enabled=False)
    assert page.locator(f"{ATTACKS} tr[data-stem]").count() == len(board[1])
    assert page.locator(f"{ATTACKS} tr[data-stem]").last.is_visible()
    assert not page.locator(".filtering").is_visible()


@pytest.fixture(scope="module")
def benchmark_module():
    path = Path(__file__).parents[2] / "benchmarks" / "site.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_the_site", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_thousand_entries_filter_in_a_tenth_of_a_second(browser, benchmark_module, tmp_path):
    benchmark_module.made_up(tmp_path / "entries", 2000)
    collection = entries.read(tmp_path / "entries")
    assert (len(collection.entries), collection.problems) == (2000, [])
    index = site.write(tmp_path / "site", collection.entries, tmp_path / "entries")
    page = browser.new_page()
    page.goto(index.as_uri())
    page.get_by_label("architecture").select_option("vit")
    assert page.locator(f"{ATTACKS} .count").text_content() == "280 of 2,000"
    assert page.locator(f"{ATTACKS} {SHOWN}").count() == 50
    page.get_by_role("button", name="Show all 280").click()
    assert page.locator(f"{ATTACKS} {SHOWN}").count() == 280
    page.get_by_role("button", name="Show the first 50").click()
    times = benchmark_module.filter_milliseconds(page)
    page.close()
    print(f"filter: median {statistics.median(times):.0f} ms, most {max(times):.0f} ms")
    assert statistics.median(times) < 100

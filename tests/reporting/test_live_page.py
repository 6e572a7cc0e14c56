"""The page that shows how far a run is: text only, rewritten now and then, readable everywhere, its age said."""

from __future__ import annotations

import os
import re
import shutil
from importlib.resources import files

import pytest
from made_up_run import HOSTILE

from fedsim.reporting import live
from fedsim.reporting.live import LivePage, html
from fedsim.runs.progress import Facts, Label, Score, Signal

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="no chromium on this machine")
BAD = Label(HOSTILE, HOSTILE, HOSTILE)


def _facts(stage="attacking", **changes) -> Facts:
    values = {
        "scenario": HOSTILE,
        "stage": stage,
        "cells": (2, 2),
        "jobs": (5, 16),
        "seconds": 63.0,
        "left": 125.0,
        "under_way": tuple((BAD, Signal(i / 20, 0.0123)) for i in range(20)),
        "scored": ((BAD, Score(31.26, "ok")), (BAD, Score(None, "not_applicable"))),
        "failed": 1,
    }
    return Facts(**{**values, **changes})


def test_every_fact_is_on_the_page_and_every_name_is_text():
    page = html(_facts(), report="report.html")
    assert "<script>window" not in page
    assert page.count("&lt;script&gt;window") >= 3 * (live.UNDER_WAY + 2) + 1
    for said in ("2 of 2 cells", "5 of 16 jobs", "1:03 so far", "about 2:05 left", "1 job failed", "0.0123"):
        assert said in page
    assert "31.3 dB" in page
    assert "not applicable" in page
    assert "And 8 more." in page


def test_it_reloads_itself_until_the_run_has_ended_and_links_the_report_then():
    for stage in ("starting", "training", "attacking"):
        page = html(_facts(stage), report="report.html")
        assert 'http-equiv="refresh" content="2"' in page
        assert "<a " not in page
    for stage in ("interrupted", "stopped"):
        page = html(_facts(stage), report="report.html")
        assert "http-equiv" not in page
        assert "<a " not in page
    page = html(_facts("finished", under_way=()), report='a "b"/<c>.html')
    assert "http-equiv" not in page
    assert '<a href="a%20%22b%22/%3Cc%3E.html">' in page


def test_it_is_rewritten_every_two_seconds_and_whenever_the_stage_changes(tmp_path, monkeypatch):
    now = [0.0]
    written = []
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live, "write_text", lambda path, content: written.append((now[0], path)))
    view = LivePage(tmp_path / "live.html", report=tmp_path / "report.html")
    for tick in range(21):
        now[0] = tick / 4
        view.show(_facts("training"))
    view.show(_facts("attacking"))
    view.show(_facts("attacking"))
    assert [when for when, _ in written] == [0.0, 2.0, 4.0, 5.0]
    assert {path for _, path in written} == {tmp_path / "live.html"}


def test_the_pages_own_style_takes_no_class_that_the_shared_style_has():
    """Both stand in one page: a class of both has the rules of both."""
    shared = (files("fedsim.reporting") / "templates" / "style.css").read_text()
    template = (files("fedsim.reporting") / "templates" / "live.html.j2").read_text()
    own = template.partition('{% include "style.css" %}')[2].partition("</style>")[0]
    names = set(re.findall(r"(?:^|[},\s])\.([a-z]+)", own))
    assert {"stage", "facts"} <= names
    assert not names & set(re.findall(r"\.([a-z]+)", shared))


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@needs_chromium
@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 1000), ("light", 390)])
def test_from_disk_it_fits_asks_for_nothing_and_follows_the_run(browser, tmp_path, scheme, width):
    path = tmp_path / "live.html"
    view = LivePage(path, report=tmp_path / "report.html")
    view.show(_facts())
    trouble = []
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda asked: trouble.append(asked.url) if not asked.url.startswith(path.as_uri()) else None)
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.hacked") is None
    assert page.locator("h1").inner_text() == HOSTILE
    assert not page.locator("#killed").is_visible()
    assert page.locator(".stage").count() == 2
    for bar in page.locator(".stage").all():
        words = bar.locator("span")
        assert bar.evaluate("e => getComputedStyle(e).backgroundColor") == "rgba(0, 0, 0, 0)", "it lies over its words"
        for one in words.all():
            assert one.bounding_box()["height"] <= bar.bounding_box()["height"] + 1
    view.show(_facts("finished", jobs=(16, 16), under_way=()))
    page.get_by_text("16 of 16 jobs").wait_for(timeout=15_000)  # nobody reloaded it
    assert page.get_by_role("link").get_attribute("href") == "report.html"
    assert trouble == []
    page.close()


@needs_chromium
def test_a_page_that_stands_still_says_that_the_run_was_probably_killed(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(live.time, "time", lambda: 1_700_000_000.0)
    path = tmp_path / "live.html"
    path.write_text(html(_facts(), report="report.html"))
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.locator("#killed").is_visible()
    assert "probably killed" in page.locator("#killed").inner_text()
    assert not page.locator("#headline").is_visible()
    assert "Last written 2023-11-14 22:13:20 UTC" in page.locator(".facts").inner_text()
    page.close()

"""The documentation builds as a site: no broken link, a page for each attack and defense, nothing from the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attacks
import defenses

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    built = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(built)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return built


def test_each_attack_and_each_defense_has_a_page(site):
    assert {path.stem for path in (site / "attack").glob("*.html")} == set(attacks.names())
    assert {path.stem for path in (site / "defense").glob("*.html")} == set(defenses.names())
    assert "soteria.html" in (site / "each-defense.html").read_text()
    assert "Sun et al." in (site / "defense" / "soteria.html").read_text()


def test_the_start_is_the_readme(site):
    page = (site / "index.html").read_text()
    assert "Three findings" in page
    assert 'href="audit.html"' in page
    assert 'href="docs/' not in page


def test_pages_ask_the_network_for_nothing(site):
    for path in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"(https?:[^\"]*)", path.read_text())
        assert loaded == [], path


def test_the_readme_is_short():
    """What is long has a page of its own."""
    assert len((ROOT / "README.md").read_text().split()) < 1200

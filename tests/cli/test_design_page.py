"""The page that shows the house names what stands, and its drawings are those of the contracts."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "design.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
OF_A_RUN = {"observations/", "grants/", "truth/", "jobs/"}
"""Folders that a run writes."""


@pytest.fixture(scope="module")
def drawings() -> dict[str, str]:
    house = runpy.run_path(str(ROOT / "docs" / "house.py"))
    return {"house.svg": house["house"](CONTRACTS), "way.svg": house["way"]()}


def test_every_package_and_file_that_is_named_exists(drawings):
    named = set(re.findall(r"`([\w/]+/(?:\w+\.\w+)?)`", PAGE)) - OF_A_RUN
    named |= set(re.findall(r">([a-z]+/[\w/]+(?:\.py)?)\b", drawings["way.svg"]))
    assert len(named) > 40
    rooms = [ROOT, *(ROOT / name for name in ("attacks", "defenses", "fedsim"))]
    assert [name for name in sorted(named) if not any((room / name).exists() for room in rooms)] == []


def test_every_package_stands_in_the_tables():
    for package in ("attacks", "defenses", "fedsim"):
        assert f"| `{package}/` | " in PAGE
        rooms = {one.parent.name for one in (ROOT / package).glob("*/__init__.py")}
        assert {room for room in rooms if f"`{room}/`" not in PAGE and f"{package}/{room}/" not in PAGE} == set()


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


@pytest.mark.parametrize("name", ["house.svg", "way.svg"])
def test_a_drawing_is_what_its_command_writes(drawings, name):
    stands = (ROOT / "docs" / name).read_text() == drawings[name]
    assert stands, f"docs/{name} is not what the contracts say: python docs/house.py"


def test_every_module_of_the_defenses_stands_in_a_layer():
    """So that no new one escapes the arrows; of the other packages the contracts themselves demand it."""
    [contract] = [one for one in CONTRACTS if one["type"] == "layers" and "containers" not in one]
    layers = {part.strip() for row in contract["layers"] for part in row.split("|")}
    found = [*(ROOT / "defenses").iterdir(), *(ROOT / "defenses" / "client").iterdir()]
    modules = [path for path in found if path.suffix == ".py" or (path / "__init__.py").exists()]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules if path.stem != "__init__"}
    assert names - {"defenses.client"} == layers
    assert all("exhaustive" in one for one in CONTRACTS if "containers" in one)

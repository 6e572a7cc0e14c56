"""A page of a study that is run part by part keeps the tables of the parts that were run before."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

PAGE = """\
### mnist · mlp

6 images.

| defense | none |
|---|---|
| `clip` | 12 |

### mnist · lenet

4 images.
"""


@pytest.fixture
def studies(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs")
    return importlib.import_module("studies")


def test_tables_of_the_same_setting_are_exchanged_and_the_others_stay(studies):
    assert studies.with_those_of(PAGE, "### mnist · lenet\n\n6 images.\n") == PAGE.replace("4 images", "6 images")


def test_tables_of_a_new_setting_come_after_the_others(studies):
    assert studies.with_those_of(PAGE, "### photos · resnet18\n\n8 images.\n") == (
        f"{PAGE}\n### photos · resnet18\n\n8 images.\n"
    )

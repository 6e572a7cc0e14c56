"""What there is to say of each defense is said by its class, and the document is what the command writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import defenses
from fedsim import defense_pages
from fedsim.cli import app

ROOT = Path(__file__).parents[2]
PAGES = {page.name: page for page in defense_pages.pages()}


def test_the_document_is_what_the_command_writes():
    document = (ROOT / "docs" / "each-defense.md").read_text()
    assert defense_pages.COMMAND in document
    assert document == defense_pages.markdown()
    printed = CliRunner().invoke(app, defense_pages.COMMAND.removeprefix("fedsim ").split(" > ")[0].split())
    assert printed.exit_code == 0
    assert printed.stdout == document


@pytest.mark.parametrize("name", defenses.names())
def test_each_defense_has_a_text(name):
    assert PAGES[name].text
    assert "Args:" not in PAGES[name].text
    assert PAGES[name].place != "nothing" or name == "none"


def test_what_an_attacker_makes_of_it():
    assert PAGES["pruning"].known.startswith("compares what it let through")
    assert PAGES["gaussian_noise"].known == "weighs entries by the noise on them"
    assert PAGES["central_dp"].known == "has seen each update before it acts"
    assert PAGES["instahide"].known == "needs an attack that names it"
    assert PAGES["none"].known == "has nothing to know"
    assert PAGES["dropout"].told_by == "dropout_rate"
    assert {name for name, page in PAGES.items() if page.private} == {"central_dp", "dp_sgd", "local_dp"}


def test_mods_are_those_that_act_on_the_update_alone():
    assert not PAGES["clip"].mod
    assert PAGES["mixup"].mod == "acts on the images"
    assert PAGES["soteria"].mod == "looks at the client's model and images"


@pytest.mark.parametrize("name", defenses.names())
def test_each_key_is_explained(name):
    for key in PAGES[name].keys:
        assert re.fullmatch(r"`\w+(=[^`]*)?`: \S.*", key), f"{name}: {key} stands in no Args of its class"


def test_the_table_has_all():
    printed = CliRunner(env={"COLUMNS": "160", "NO_COLOR": "1"}).invoke(app, ["list", "defenses", "--long"])
    assert printed.exit_code == 0
    for name in defenses.names():
        assert name in printed.stdout

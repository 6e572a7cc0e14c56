"""What there is to say of each attack is said by its class, and the document is what the command writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

import attacks
from attacks import Attack
from attacks.malicious import MaliciousAttack
from fedsim import attack_pages
from fedsim.cli import app

ROOT = Path(__file__).parents[2]
PAGES = {page.name: page for page in attack_pages.pages()}


def test_the_document_is_what_the_command_writes():
    document = (ROOT / "docs" / "attacks.md").read_text()
    assert attack_pages.COMMAND in document
    assert document == attack_pages.markdown()
    printed = CliRunner().invoke(app, attack_pages.COMMAND.removeprefix("fedsim ").split(" > ")[0].split())
    assert printed.exit_code == 0
    assert printed.stdout == document


@pytest.mark.parametrize("name", attacks.names())
def test_each_attack_speaks_for_itself(name):
    """Not in the words of the attack that it is derived from."""
    own = attacks.get(name).__dict__
    said = {key for key in ("paper", "exploits", "under_dropout") if own.get(key)}
    page = PAGES[name]
    assert "under_dropout" in said
    assert "exploits" in said or page.kind == "null"
    assert "paper" in said or page.kind in ("null", "composed")
    assert page.text
    assert "Args:" not in page.text


def test_kinds_are_those_of_the_classes():
    kinds = {page.kind: {name for name, other in PAGES.items() if other.kind == page.kind} for page in PAGES.values()}
    assert kinds["null"] == {"null_mean", "null_random"}
    assert kinds["oracle"] == {"well_informed"}
    assert kinds["malicious"] == {name for name in attacks.names() if issubclass(attacks.get(name), MaliciousAttack)}
    assert kinds["closed form"] == {name for name in attacks.names() if attacks.get(name).solves}
    assert PAGES["dropout_inversion"].kind == "matching"
    assert PAGES["cascade"].kind == "composed"


def test_needs_are_what_it_exploits_and_what_it_must_be_granted():
    assert PAGES["gradinversion"].needs == "batch norm; the batch size; statistics of batch norm (running or batch)"
    assert PAGES["null_random"].needs == "the batch size; public images"
    assert PAGES["well_informed"].needs.endswith("labels (known or inferred); the batch size; what the client drew")
    assert "labels" not in PAGES["inverting_gradients"].needs  # it looks for those that nobody tells it
    assert not PAGES["first_linear"].sums
    assert PAGES["sparse_dictionary"].sums

    class OfPublicImages(Attack):
        """Not registered.

        Args:
            level: none.
        """

        requires: ClassVar = {"auxiliary_data": ("public",), "labels": ("known",), "aggregation": ("individual",)}

    page = attack_pages._page("of_public_images", OfPublicImages)
    assert (page.needs, page.text, page.kind) == ("public images; labels", "Not registered.", "composed")
    assert not page.sums


@pytest.mark.parametrize("name", attacks.names())
def test_each_key_is_explained(name):
    for key in PAGES[name].keys:
        assert re.fullmatch(r"`\w+(=[^`]*)?`: \S.*", key), f"{name}: {key} stands in no Args of its class"


def test_kinds_are_explained_above_the_table():
    head = attack_pages.markdown().split("| name |")[0].lower()
    for page in PAGES.values():
        assert f"*{page.kind.removesuffix(' form')}" in head, page.kind


def test_the_table_has_all_and_other_kinds_have_no_long_form():
    runner = CliRunner(env={"COLUMNS": "160", "NO_COLOR": "1"})
    printed = runner.invoke(app, ["list", "attacks", "--long"])
    assert printed.exit_code == 0
    for name in attacks.names():
        assert name in printed.stdout
    declined = runner.invoke(app, ["list", "models", "--long"])
    assert declined.exit_code != 0
    assert "--long is of attacks alone or of defenses alone" in str(declined.exception)

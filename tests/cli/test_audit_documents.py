"""The commands and the workflow by which the documents lead to a verdict are ones that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer
from ruamel.yaml import YAML

from fedsim.cli import app

ROOT = Path(__file__).parents[2]
PAGES = ["docs/audit.md", "README.md", "examples/flower-quickstart/README.md", "examples/opacus/README.md"]
REQUIRED = ["--model", "m:N", "--data-shape", "1,2,2", "--classes", "2"]


def commands(text: str) -> list[list[str]]:
    """Each `fedsim audit` of a page's code, in words; `...` stands for what was said before."""
    inline = [code.replace("\n", " ") for code in re.findall(r"`(fedsim audit [^`]*)`", text)]
    blocks = re.findall(r"(?m)^ {4}.*(?:\n {4}.*)*", text) + inline
    found = []
    for block in blocks:
        joined = re.sub(r"\\\n\s*|\n\s{8,}(?=--)", " ", block)
        for line in re.findall(r"^\s*(fedsim audit .*)|(fedsim audit [^\n]*(?:\n(?!\s+- )[^\n]*)*)", joined, re.M):
            words = shlex.split(next(filter(None, line)).partition("...")[0], comments=True)
            found.append(words[2:])
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_audit_of_the_documents_is_understood(page):
    command = typer.main.get_command(app).commands["audit"]
    shown = commands((ROOT / page).read_text())
    assert shown
    for words in shown:
        words = words[:-1] if words[-1] in ("--model", "--canary") else words
        lacking = REQUIRED if "--model" not in words or "--classes" not in words else []
        with command.make_context("audit", [*words, *lacking]) as context:
            assert str(context.params["store"]) == "observations"


def test_an_option_that_is_none_would_be_found():
    command = typer.main.get_command(app).commands["audit"]
    with pytest.raises(click.exceptions.NoSuchOption):
        command.make_context("audit", ["observations", *REQUIRED, "--canaries", "images"])


def test_the_workflow_for_a_users_ci_records_and_then_audits():
    page = (ROOT / "docs" / "audit.md").read_text()
    [block] = [part for part in re.findall(r"(?:^    .*\n|^\n(?=    ))+", page, flags=re.M) if "privacy.yml" in part]
    workflow = YAML(typ="safe", pure=True).load("\n".join(line[4:] for line in block.splitlines()))
    assert workflow["on"] == ["pull_request"]
    steps = workflow["jobs"]["audit"]["steps"]
    runs = [step["run"].strip() for step in steps if "run" in step]
    assert [run.split()[0] for run in runs] == ["pip", "flwr", "fedsim"]
    assert "--fail-on-leak" in runs[-1].split()
    uploaded = next(step for step in steps if "upload-artifact" in step.get("uses", ""))
    assert (uploaded["if"], uploaded["with"]["path"]) == ("always()", "audit/")  # that of a leak, too

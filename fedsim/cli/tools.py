"""What does not need a run: lists, checks, the schema, the installation."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from fedsim.cli.shell import ScenarioArgument, SetOption, command, out
from fedsim.errors import BadInput


@command("list")
def list_members(
    kinds: Annotated[
        list[str],
        typer.Argument(
            metavar="KIND...",
            help="attacks, defenses, optimizers, schedules, models, decoders, datasets, metrics or scenarios",
        ),
    ],
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown, for a document.")] = False,
    long: Annotated[
        bool,
        typer.Option(
            "--long",
            help="Of attacks: paper, kind, needs, what each does under dropout; of defenses: where each acts, and what "
            "an attacker makes of it.",
        ),
    ] = False,
) -> None:
    """List what a scenario can name."""
    from fedsim.catalogue import catalogue, markdown

    if long:
        pages = _pages(kinds)
        if as_markdown:
            sys.stdout.write(pages.markdown())
        else:
            out.print(pages.table())
        return
    if as_markdown:
        sys.stdout.write(markdown(kinds))
        return
    for kind in kinds:
        out.print(catalogue(kind))


def _pages(kinds: Sequence[str]) -> ModuleType:
    from fedsim import attack_pages, defense_pages

    if kinds == ["attacks"]:
        return attack_pages
    if kinds == ["defenses"]:
        return defense_pages
    raise BadInput(f"list {' '.join(kinds)}: --long is of attacks alone or of defenses alone")


@command("new")
def new(
    name: Annotated[str, typer.Argument(help="What to call it; letters, digits, - _ .")] = "my-question",
    directory: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write it.")] = Path(),
) -> None:
    """Begin a scenario: commented, with a schema for editors and a model of your own."""
    from fedsim.scenario.new import begin

    scenario, *others = begin(name, directory)
    for path in (scenario, *others):
        out.print(str(path), highlight=False, soft_wrap=True)
    out.print(f"next: fedsim check {shlex.quote(str(scenario))}", highlight=False, soft_wrap=True, style="dim")


@command("check")
def check(scenario: ScenarioArgument, overrides: SetOption = None) -> None:
    """Check a scenario without running it."""
    from fedsim import scenario as scenarios

    loaded = scenarios.load(scenario, overrides or [])
    out.print(f"{scenario}: ok, {len(scenarios.every_cell(loaded))} cells", highlight=False, soft_wrap=True)


@command("schema")
def schema() -> None:
    """Print the JSON Schema of a scenario file, for editors."""
    from fedsim.memo import remembered

    print(json.dumps(remembered("schema", _made_schema), indent=2))


def _made_schema() -> dict[str, Any]:
    from fedsim.scenario import json_schema

    return json_schema()


@command("doctor")
def doctor() -> None:
    """Say what this installation has: versions, processors, GPUs, compiler, LPIPS."""
    from fedsim.doctor import examine

    table, healthy = examine()
    out.print(table)
    if not healthy:
        raise typer.Exit(1)

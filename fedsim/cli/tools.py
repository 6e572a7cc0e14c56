"""What does not need a run: lists, checks, the schema, the installation."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fedsim.cli.shell import ScenarioArgument, SetOption, app, out


@app.command(name="list")
def list_members(
    kind: Annotated[str, typer.Argument(help="attacks, defenses, models, datasets, metrics or scenarios")],
) -> None:
    """List what a scenario can name."""
    from fedsim.catalogue import catalogue

    out.print(catalogue(kind))


@app.command()
def check(scenario: ScenarioArgument, overrides: SetOption = None) -> None:
    """Check a scenario without running it."""
    from fedsim import scenario as scenarios

    loaded = scenarios.load(scenario, overrides or [])
    out.print(f"{scenario}: ok, {len(loaded.cells())} cells", highlight=False, soft_wrap=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a scenario file, for editors."""
    from fedsim.scenario import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def doctor() -> None:
    """Say what this installation has: versions, processors, GPUs, compiler, LPIPS."""
    from fedsim.doctor import examine

    table, healthy = examine()
    out.print(table)
    if not healthy:
        raise typer.Exit(1)

"""The command line; thin: each command calls the Python API and prints.

Exit codes: 0 done (`not_applicable` included), 1 some client, cell or job failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fedsim.errors import FedsimError
from fedsim.version import __version__

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

    from fedsim.api import Run

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Privacy attacks on federated learning: what can a server rebuild, and which defense stops it?",
)
out = Console() if sys.stdout.isatty() else Console(width=120)
err = Console(stderr=True)

ScenarioArgument = Annotated[str, typer.Argument(help="A scenario file, or the name of a bundled scenario.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. model.name=lenet.")
]
RunArgument = Annotated[Path, typer.Argument(help="A run directory.")]


@app.command()
def run(
    scenario: ScenarioArgument,
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Run directory; runs/<name> if not given.")
    ] = None,
    overrides: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cells, the jobs and a time estimate.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew: delete what an earlier run left.")] = False,
    ray_address: Annotated[str | None, typer.Option(help="Use this Ray cluster instead of starting one.")] = None,
) -> None:
    """Run a scenario, or go on with it: train, attack, score, report."""
    from fedsim import api
    from fedsim import scenario as scenarios
    from fedsim.runs.directory import check_owner
    from fedsim.runs.progress import TerminalView

    loaded = scenarios.load(scenario, overrides or [])
    target = directory or Path("runs") / loaded.name
    check_owner(target, loaded.name)
    if dry_run:
        from fedsim.runs.estimate import plan_table

        out.print(plan_table(loaded, target))
        return
    try:
        done = api.run(
            loaded,
            out=target,
            fresh=fresh,
            ray_address=ray_address,
            command=_command(scenario, overrides),
            view=TerminalView(err),
        )
    except KeyboardInterrupt:
        err.print("interrupted; what is finished is kept, the same command goes on from there", style="yellow")
        raise typer.Exit(130) from None
    report = done.report()
    out.print(_terminal_leaderboard(done.leaderboard()))
    out.print(f"report   {report}", highlight=False, soft_wrap=True)
    out.print(f"results  {done.path / 'results.parquet'}", highlight=False, soft_wrap=True)
    if done.failed:
        _say_failures(done)
        raise typer.Exit(1)


@app.command()
def report(
    run_directory: RunArgument,
    to: Annotated[
        Path | None, typer.Option("--html", help="Where to write it; report.html in the run if not given.")
    ] = None,
) -> None:
    """Write the defense evaluation report of a run: one self-contained HTML file."""
    from fedsim.api import Run

    out.print(str(Run(run_directory).report(to)), highlight=False, soft_wrap=True)


@app.command()
def leaderboard(
    run_directories: Annotated[list[Path], typer.Argument(help="One run directory or more.")],
    html: Annotated[Path | None, typer.Option(help="Also write it as an HTML page.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write it as JSON.")] = None,
) -> None:
    """Rank the attacks of one run, or of several together."""
    import polars as pl

    from fedsim.api import Run
    from fedsim.files import write_text
    from fedsim.reporting import leaderboard as boards

    board = boards.build(pl.concat([Run(path).results for path in run_directories]))
    out.print(_terminal_leaderboard(board))
    if html is not None:
        write_text(html, boards.html(board))
    if json_file is not None:
        write_text(json_file, boards.to_json(board))


@app.command()
def figure(
    run_directory: RunArgument,
    to: Annotated[Path, typer.Option("--png", help="Where to write the picture.")],
) -> None:
    """Draw the originals above what each attack rebuilt."""
    from fedsim.api import Run
    from fedsim.files import write_bytes
    from fedsim.reporting import figures

    done = Run(run_directory)
    write_bytes(to, figures.grid(done.results, done.pictures))
    out.print(str(to), highlight=False, soft_wrap=True)


@app.command()
def attack(
    observations: Annotated[Path, typer.Argument(help="A cell's directory in a run: runs/<name>/cells/<key>.")],
    name: Annotated[str, typer.Option("--attack", help="The attack's name.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the attack.")
    ] = None,
    to: Annotated[Path, typer.Option("--out", help="Where to write the answer.")] = Path("reconstruction"),
) -> None:
    """Attack recorded observations without a scenario; the truth is not needed and not read."""
    from fedsim.runs.single import attack_recorded

    for path in attack_recorded(observations, name, overrides or [], to):
        out.print(str(path), highlight=False, soft_wrap=True)


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
    out.print(f"{escape(str(scenario))}: ok, {len(loaded.cells())} cells", highlight=False, soft_wrap=True)


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


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of `fedsim`: errors that a user can cause are one line, not a traceback."""
    try:
        app()
    except FedsimError as error:
        err.print(f"fedsim: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


def _command(scenario: str, overrides: list[str] | None) -> str:
    parts = ["fedsim", "run", scenario, *(word for value in overrides or [] for word in ("--set", value))]
    return shlex.join(parts)


def _terminal_leaderboard(board: pl.DataFrame) -> Table:
    from fedsim.reporting import leaderboard as boards

    return boards.terminal(board)


def _say_failures(done: Run) -> None:
    import polars as pl

    failed = done.results.filter(pl.col("status") == "failed").select("defense", "client", "reason").unique()
    for defense, client, reason in failed.sort("defense", "client").head(10).iter_rows():
        err.print(f"failed: {defense}, client {client}: {reason}", style="red", markup=False, highlight=False)


if __name__ == "__main__":
    main()

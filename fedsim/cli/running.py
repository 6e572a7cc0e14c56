"""`fedsim run`, and `fedsim attack` for what was recorded before."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from click import Context
from typer.core import TyperCommand

from fedsim.cli.shell import ScenarioArgument, SetOption, app, command, err, heading, out
from fedsim.errors import BadInput

if TYPE_CHECKING:
    from fedsim.api import Run
    from fedsim.runs.needs import Nodes
    from fedsim.scenario import Scenario


DRAW = "draw"

OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="TEXT", help="Only cells like 'mnist, mlp, batch 1, clip(norm=1.0)' with TEXT."),
]


class OptionalSalt(TyperCommand):
    """Takes `--salt` alone, too: what follows it is its value only where it looks like one."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        for place, (word, value) in enumerate(zip(args, [*args, ""][1:], strict=True)):
            if word == "--salt" and not re.fullmatch("[0-9a-fA-F]{32}", value):
                args[place] = f"--salt={DRAW}"
                self._digits_meant(ctx, args, place)
        return super().parse_args(ctx, args)

    def _digits_meant(self, ctx: Context, args: list[str], place: int) -> None:
        """Refuse a word after `--salt` that can only be meant as one: with it there is an argument too many."""
        word = "".join(args[place + 1 : place + 2])
        _, extra, _ = self.make_parser(ctx).parse_args(list(args))
        if extra and word and not word.startswith("-"):
            digits = "32 hexadecimal digits, or is left out to draw one"
            raise BadInput(f"--salt {word}: not a salt; it has {digits}")


@app.command(cls=OptionalSalt, rich_help_panel=heading("run"))
def run(
    scenario: ScenarioArgument,
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Run directory; runs/<name> if not given.")
    ] = None,
    overrides: SetOption = None,
    words: OnlyOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what `fedsim plan` says of this machine.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew: delete what an earlier run left.")] = False,
    salt: Annotated[
        str | None,
        typer.Option(
            metavar="[HEX]",
            help="Draw the clients' batches, masks and noise from 128 secret bits, too; HEX repeats a published salt.",
        ),
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="Use this Ray cluster instead of starting one.")] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Also write live.html in the run: a page that shows how far it is.")
    ] = False,
) -> None:
    """Run a scenario, or go on with it: train, attack, score, report."""
    from fedsim import api
    from fedsim import scenario as scenarios
    from fedsim.reporting.leaderboard import views
    from fedsim.runs.directory import check_owner
    from fedsim.runs.progress import View, Views
    from fedsim.runs.terminal import TerminalView

    loaded = scenarios.load(scenario, overrides or [], here=ray_address is None)
    if words:
        loaded = scenarios.only(loaded, words)
    target = directory or Path("runs") / loaded.name
    check_owner(target, loaded.name)
    if dry_run:
        _print_plan(loaded, target)
        return
    view: View = TerminalView(err)
    if live:
        from fedsim.reporting.live import LivePage

        page = target / "live.html"
        view = Views(view, LivePage(page, report=target / "report.html"))
        err.print(f"live     {page}", style="dim", highlight=False, soft_wrap=True)
    try:
        done = api.run(
            loaded,
            out=target,
            fresh=fresh,
            salt=salt == DRAW or salt or False,
            ray_address=ray_address,
            command=_command(scenario, overrides, words, salted=salt is not None),
            view=view,
        )
    except KeyboardInterrupt:
        err.print("interrupted; what is finished is kept, the same command goes on from there", style="yellow")
        raise typer.Exit(130) from None
    report = done.report()
    out.print(views.terminal(done.leaderboard()))
    out.print(f"report   {report}", highlight=False, soft_wrap=True)
    out.print(f"results  {done.path / 'results.parquet'}", highlight=False, soft_wrap=True)
    if done.failed:
        _say_failures(done)
        raise typer.Exit(1)


@command("plan")
def plan(
    scenario: ScenarioArgument,
    nodes: Annotated[
        int, typer.Option(min=1, max=10_000, help="Machines of the Ray cluster, that of the command among them.")
    ] = 1,
    processors: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Of each machine; as many as here if not given.")
    ] = None,
    overrides: SetOption = None,
    words: OnlyOption = None,
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Leave out what this run has done; runs/<name>.")
    ] = None,
) -> None:
    """What a run would do, how long it takes at most on some machines, and in what memory.

    Measured here, in seconds to minutes: a process that starts, a few iterations of each attack, one client's round,
    the first steps of trainings. Not known: what else runs on the machines, how fast others are, the network between
    them, when attacks stop, how long compiled ones take.
    """
    from fedsim import scenario as scenarios
    from fedsim.runs.directory import check_owner
    from fedsim.runs.needs import Nodes

    loaded = scenarios.load(scenario, overrides or [])
    if words:
        loaded = scenarios.only(loaded, words)
    target = directory or Path("runs") / loaded.name
    check_owner(target, loaded.name)
    _print_plan(loaded, target, Nodes(nodes, processors or os.cpu_count() or 1))


@command("attack")
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


def _print_plan(scenario: Scenario, target: Path, nodes: Nodes | None = None) -> None:
    from fedsim.runs.estimate import plan_table
    from fedsim.runs.terminal import latest

    with latest(err) as say:
        planned = plan_table(scenario, target, nodes, say=say)
    out.print(planned)


def _command(scenario: str, overrides: list[str] | None, words: list[str] | None, *, salted: bool) -> str:
    """How the run was started, for whoever repeats it; a salt is as secret as the truth."""
    parts = ["fedsim", "run", scenario, *(word for value in overrides or [] for word in ("--set", value))]
    parts += [part for word in words or [] for part in ("--only", word)]
    parts += ["--salt"] if salted else []
    return shlex.join(parts)


def _say_failures(done: Run) -> None:
    import polars as pl

    failed = done.results.filter(pl.col("status") == "failed").select("defense", "client", "reason").unique()
    for defense, client, reason in failed.sort("defense", "client").head(10).iter_rows():
        err.print(f"failed: {defense}, client {client}: {reason}", style="red", highlight=False)

"""Tables for a paper, and what differs between two runs or two attacks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.shell import command, demand_results, kind, out
from fedsim.errors import BadInput


@command("table")
def table(
    run_directories: Annotated[list[Path], typer.Argument(help="One run directory or more.")],
    latex: Annotated[bool, typer.Option("--latex", help="As LaTeX with booktabs.")] = False,
    md: Annotated[bool, typer.Option("--md", help="As Markdown, which is the default.")] = False,
    html: Annotated[bool, typer.Option("--html", help="As a page of its own.")] = False,
    to: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there; printed if not.")] = None,
) -> None:
    """Attacks against defenses as a table for a paper: medians with intervals, threat models kept apart."""
    from fedsim import api
    from fedsim.files import write_text
    from fedsim.reporting import crossed, leaderboard

    if latex + md + html > 1:
        raise BadInput("table: takes one of --latex, --md and --html")
    kind(".tex" if latex else ".html" if html else ".md")(to)
    results = api.results(run_directories)
    demand_results(results, run_directories)
    written = crossed.latex if latex else crossed.html if html else crossed.markdown
    noted = "; ".join(filter(None, (api.Run(path).notes.line for path in run_directories)))
    text = written(leaderboard.build(results), noted=noted)
    if to is None:
        sys.stdout.write(text)
    else:
        write_text(to, text)
        out.print(str(to), highlight=False, soft_wrap=True)


@command("compare")
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="A", help="A run directory.")],
    run_b: Annotated[
        Path | None, typer.Argument(metavar="B", help="Another; the same one if not given, for two attacks.")
    ] = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", metavar="NAME", help="Only this attack; given twice: one of A, one of B."),
    ] = None,
) -> None:
    """Compare two runs, or two attacks, victim by victim: paired differences with interval and test."""
    from fedsim import api
    from fedsim.reporting import comparison

    if len(attacks or []) > 2:
        raise BadInput("compare: takes --attack once or twice: one attack of both, or the one of A and the one of B")
    if run_b is None and len(attacks or []) != 2:
        raise BadInput("compare: takes two runs; of one run, two attacks: --attack X --attack Y")
    out.print(comparison.terminal(api.compare(run_a, run_b or run_a, attacks=attacks or ())))

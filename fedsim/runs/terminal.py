"""What a person sees in the terminal while a run goes on; one line for each stage where the output is no terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedsim.runs.progress import ENDED, Facts, Label, Stage, View, clock, loss_text, psnr_text, shown

UNDER_WAY = 5
SCORED = 3


class TerminalView(View):
    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._stage: Stage | None = None

    def say(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def show(self, facts: Facts) -> None:
        entered, self._stage = facts.stage != self._stage, facts.stage
        if not self._console.is_terminal:
            if entered and facts.stage in ("training", "attacking"):
                self.say(_line(facts))
            return
        if self._live is None and facts.stage in ("training", "attacking"):
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.start()
        if self._live is not None:
            self._live.update(screen(facts))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def screen(facts: Facts) -> RenderableType:
    """The bars of the cells and the jobs; below them the jobs under way and the latest scored ones."""
    parts: list[RenderableType] = [_bars(facts)]
    if facts.under_way or facts.scored:
        parts.append(_jobs(facts))
    return Group(*parts)


def _line(facts: Facts) -> str:
    done, total = facts.cells if facts.stage == "training" else facts.jobs
    return f"{facts.stage} {total - done} {'cells' if facts.stage == 'training' else 'jobs'}"


def _bars(facts: Facts) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=9, no_wrap=True)
    grid.add_column(max_width=24)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True)
    within = sum(signal.fraction for _, signal in facts.under_way)
    for stage, unit, (done, total), part in (
        ("training", "cells", facts.cells, 0),
        ("attacking", "jobs", facts.jobs, within),
    ):
        bar = ProgressBar(total=max(total, 1), completed=min(done + part, total) if total else 1)
        remark = ""
        if facts.stage == stage and facts.left is not None:
            remark = f"{clock(facts.seconds)}, about {clock(facts.left)} left"
        elif facts.stage == stage or (stage == "attacking" and facts.stage in ENDED):
            remark = clock(facts.seconds)
        if stage == "attacking" and facts.failed:
            remark += f", {facts.failed} failed"
        grid.add_row(Text(stage), bar, Text(f"{done}/{total} {unit}"), Text(remark, style="dim"))
    return grid


def _jobs(facts: Facts) -> Table:
    """The names give way where the terminal is narrow; the numbers do not."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=10, no_wrap=True)
    for _ in range(3):
        grid.add_column()
    grid.add_column(width=5, no_wrap=True, justify="right")
    grid.add_column(width=14, no_wrap=True)
    jobs, more = shown(facts.under_way, UNDER_WAY)
    for number, (label, signal) in enumerate(jobs):
        heading = "" if number else "now"
        fraction, loss = f"{100 * signal.fraction:.0f} %", f"loss {loss_text(signal.loss)}"
        grid.add_row(_name(heading), *_names(label), Text(fraction), Text(loss))
    if more:
        grid.add_row("", _name(f"and {more} more"))
    for number, (label, score) in enumerate(facts.scored[:SCORED]):
        heading = "" if number else "scored"
        grid.add_row(_name(heading), *_names(label), "", Text(psnr_text(score)))
    return grid


def _names(label: Label) -> list[Text]:
    return [Text(name, no_wrap=True, overflow="ellipsis") for name in (label.attack, label.model, label.defense)]


def _name(text: str) -> Text:
    return Text(text, style="dim", no_wrap=True)

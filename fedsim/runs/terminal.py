"""What a person sees in the terminal while a run goes on; a plain line now and then where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedsim.runs.progress import ENDED, Facts, Label, Stage, View, clock, loss_text, psnr_text, shown

UNDER_WAY = 5
SCORED = 3
EVERY = 30.0
"""Seconds between two plain lines, at least."""


class Lines:
    """Says of what changes all the time what it is now and then: a file or a log is no screen."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._last = say, ""
        self._after = -float("inf")

    def begin(self, text: str) -> None:
        """Say this at once."""
        self._after, self._last = time.monotonic() + EVERY, text
        self._say(text)

    def go_on(self, text: str) -> None:
        """Say this if it is new and nothing was said for a while."""
        if text != self._last and time.monotonic() >= self._after:
            self.begin(text)


@contextmanager
def latest(console: Console) -> Iterator[Callable[[str], None]]:
    """What is called with what is being done now: a terminal shows the latest, elsewhere it is said now and then."""
    if not console.is_terminal:
        yield Lines(lambda text: console.print(text, style="dim", highlight=False, soft_wrap=True)).go_on
        return
    with console.status("") as status:
        yield lambda text: status.update(Text(text, style="dim", no_wrap=True, overflow="ellipsis"))


class TerminalView(View):
    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._stage: Stage | None = None
        self._lines = Lines(self.say)

    def say(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def show(self, facts: Facts) -> None:
        entered, self._stage = facts.stage != self._stage, facts.stage
        if not self._console.is_terminal:
            if facts.stage in ("training", "attacking"):
                if entered:
                    self._lines.begin(_line(facts))
                else:
                    self._lines.go_on(_how_far(facts))
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


def _how_far(facts: Facts) -> str:
    """`attacked 40 of 210 jobs, about 12:05 left`."""
    training = facts.stage == "training"
    done, total = facts.cells if training else facts.jobs
    line = f"{'trained' if training else 'attacked'} {done} of {total} {'cells' if training else 'jobs'}"
    if not training and facts.failed:
        line += f", {facts.failed} failed"
    return line if facts.left is None else f"{line}, about {clock(facts.left)} left"


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

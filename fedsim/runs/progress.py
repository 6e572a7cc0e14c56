"""What a person sees while a run goes on: the stage, how far it is, and the time that is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Stage:
    """One stage of a run with `total` pieces of work. A silent view has none to show."""

    def __init__(self, progress: Progress | None = None, task: TaskID | None = None) -> None:
        self._progress, self._task = progress, task
        self._whole = 0

    def done(self, count: int) -> None:
        self._whole = count
        self._show(count)

    def advance(self, what: str) -> None:
        self.done(self._whole + 1)

    def fractions(self, under_way: dict[str, float]) -> None:
        """The fractions done of the jobs under way, which let the bar move between whole jobs."""
        self._show(self._whole + sum(under_way.values()))

    def _show(self, completed: float) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=completed)


class View:
    """A silent view; what library users get."""

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        yield Stage()

    def close(self) -> None:
        pass


class TerminalView(View):
    """Progress bars on a terminal; one line per stage where the output is not a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        self._console.print(f"[dim]{text}[/dim]")

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        unit = "cells" if name == "training" else "jobs"
        if not self._console.is_terminal:
            self.say(f"{name} {total} {unit}")
            yield Stage()
            return
        columns = (
            TextColumn("{task.description:>10}"),
            BarColumn(),
            TextColumn("{task.completed:.1f}/{task.total:.0f} " + unit),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            yield Stage(progress, progress.add_task(name, total=total))

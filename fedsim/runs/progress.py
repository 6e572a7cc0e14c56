"""How far a run is: the facts that every view of it shows, and who keeps them.

A `Tracker` is told what happens and tells a `View` what to show, as `Facts`. The terminal's view is in
`fedsim.runs.terminal`, the page's in `fedsim.reporting.live`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Stage = Literal["starting", "training", "attacking", "finished", "interrupted", "stopped"]
ENDED: tuple[Stage, ...] = ("finished", "interrupted", "stopped")

LATEST = 8
"""How many of the latest scored jobs are remembered."""


@dataclass(frozen=True)
class Label:
    """What a person calls an attack job."""

    attack: str
    model: str
    defense: str


@dataclass(frozen=True)
class Signal:
    """What a job under way says of itself.

    Args:
        fraction: of its iterations at most.
        loss: the attack's, the median over its victims; None before there is one.
    """

    fraction: float
    loss: float | None


@dataclass(frozen=True)
class Score:
    """What came of a job.

    Args:
        psnr: the median of its rows; None where there is none.
        status: of its rows: ok, not_applicable or failed; the first of these that occurs.
    """

    psnr: float | None
    status: str


@dataclass(frozen=True)
class Facts:
    """A run at one moment.

    Args:
        cells, jobs: (done, all) of the whole run; the jobs of cells that are not trained yet are an expectation.
        seconds: since this invocation began.
        left: seconds that the present stage may still take; None while nobody can say.
        under_way: the jobs that are being computed, those begun first at the top.
        scored: the latest first.
        failed: how many jobs of this invocation left no answer.
    """

    scenario: str
    stage: Stage
    cells: tuple[int, int]
    jobs: tuple[int, int]
    seconds: float
    left: float | None
    under_way: tuple[tuple[Label, Signal], ...] = ()
    scored: tuple[tuple[Label, Score], ...] = ()
    failed: int = 0


class View:
    """A silent view; what library users get."""

    def say(self, text: str) -> None:
        """Something to be told once."""

    def show(self, facts: Facts) -> None:
        """Called a few times a second, and once more with the facts at the end."""

    def close(self) -> None:
        """Nothing more will come."""


class Views(View):
    """Several views of the same run."""

    def __init__(self, *views: View) -> None:
        self._views = views

    def say(self, text: str) -> None:
        for view in self._views:
            view.say(text)

    def show(self, facts: Facts) -> None:
        for view in self._views:
            view.show(facts)

    def close(self) -> None:
        for view in self._views:
            view.close()


class Tracker:
    """Keeps the facts of a run and shows them to a view.

    Time left is the stage's time so far, times what is left of its work over what is done of it. The work of a job is
    its iterations at most: an upper bound, since attacks stop when they have converged.
    """

    def __init__(self, view: View, scenario: str, *, cells: int, jobs: int) -> None:
        self._view, self._scenario = view, scenario
        self._stage: Stage = "starting"
        self._began = self._stage_began = time.monotonic()
        self._cells, self._jobs = (0, cells), (0, jobs)
        self._work_done, self._work = 0.0, 0.0
        self._weights: dict[str, float] = {}
        self._labels: dict[str, Label] = {}
        self._under_way: dict[str, Signal] = {}
        self._scored: list[tuple[Label, Score]] = []
        self._failed = 0

    def known(self, *, cells: int, jobs: tuple[int, int]) -> None:
        """How many cells are there already, and how many jobs of how many."""
        self._cells, self._jobs = (cells, self._cells[1]), jobs
        self._show()

    def tick(self) -> None:
        """Nothing new but the time."""
        self._show()

    def train(self, pending: int) -> None:
        """The training of so many cells begins."""
        self._enter("training", pending)

    def trained(self, count: int) -> None:
        """So many of the pending cells are done."""
        before = self._cells[0] - int(self._work_done)
        self._cells, self._work_done = (before + count, self._cells[1]), count
        self._show()

    def attack(self, labels: Mapping[str, Label], weights: Mapping[str, float]) -> None:
        """The jobs begin; by key, what each is called and how much work it is."""
        self._labels, self._weights = dict(labels), dict(weights)
        self._enter("attacking", sum(weights.values()))

    def under_way(self, signals: Mapping[str, Signal]) -> None:
        """What the jobs under way say of themselves, by key."""
        begun = [key for key in self._under_way if key in signals]
        self._under_way = {key: signals[key] for key in [*begun, *(key for key in signals if key not in begun)]}
        self._show()

    def done(self, key: str, score: Score) -> None:
        self._under_way.pop(key, None)
        self._work_done += self._weights[key]
        self._jobs = (self._jobs[0] + 1, self._jobs[1])
        self._failed += score.status == "failed"
        self._scored = [(self._labels[key], score), *self._scored][:LATEST]
        self._show()

    def end(self, stage: Stage) -> None:
        self._enter(stage, 0)
        self._view.close()

    def facts(self) -> Facts:
        now = time.monotonic()
        done = self._work_done + sum(self._weights[key] * signal.fraction for key, signal in self._under_way.items())
        elapsed = now - self._stage_began
        return Facts(
            scenario=self._scenario,
            stage=self._stage,
            cells=self._cells,
            jobs=self._jobs,
            seconds=now - self._began,
            left=elapsed * (self._work - done) / done if 0 < done <= self._work else None,
            under_way=tuple((self._labels[key], signal) for key, signal in self._under_way.items()),
            scored=tuple(self._scored),
            failed=self._failed,
        )

    def _enter(self, stage: Stage, work: float) -> None:
        self._stage, self._stage_began = stage, time.monotonic()
        self._work, self._work_done, self._under_way = work, 0.0, {}
        self._show()

    def _show(self) -> None:
        self._view.show(self.facts())


def clock(seconds: float) -> str:
    """`0:42`, `1:02:03`."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def loss_text(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3g}"


def psnr_text(score: Score) -> str:
    """`31.2 dB`, or why there is none."""
    return score.status.replace("_", " ") if score.psnr is None else f"{score.psnr:.1f} dB"


def shown(jobs: Sequence[tuple[Label, Signal]], most: int) -> tuple[Sequence[tuple[Label, Signal]], int]:
    """At most so many of the jobs under way, and how many more there are."""
    return (jobs, 0) if len(jobs) <= most else (jobs[: most - 1], len(jobs) - most + 1)

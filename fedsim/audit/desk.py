"""Where attempts on replies are run, and what came of them is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import polars as pl

from fedsim.audit.adversaries import Attempt, Budget, Plan, plan
from fedsim.audit.attempted import Tried, tried
from fedsim.audit.finding import Finding
from fedsim.audit.working import Subject, certain_of, work
from fedsim.runs.directory import RunDirectory

Say = Callable[[str], None]


@dataclass
class Desk:
    """Where attempts are run, and what came of them is kept."""

    directory: RunDirectory
    source: str
    budget: Budget
    labels: str
    say: Say
    outcomes: list[tuple[Subject, tuple[Tried, ...]]] = field(default_factory=list)
    rows: list[pl.DataFrame] = field(default_factory=list)
    untried: dict[str, str] = field(default_factory=dict)
    limits: list[str] = field(default_factory=list)
    findings: list[tuple[Finding, str]] = field(default_factory=list)

    def attack(self, subject: Subject, *, letters: str = "ABCDEFGH") -> tuple[Tried, ...]:
        """Try what applies to a subject; letters that are left out are neither tried nor said to be untried."""
        planned = plan(subject.reply, subject.told, self.budget, labels=self.labels)
        if "C" in planned.untried and letters == "C":
            letters = "B"
        planned = replace(planned, attempts=tuple(one for one in planned.attempts if one.letter in letters))
        self.untried |= {letter: why for letter, why in planned.untried.items() if letter in letters}
        self.limits += [limit for limit in planned.limits if limit[0] in letters]
        return self.run(subject, planned)

    def run(self, subject: Subject, planned: Plan) -> tuple[Tried, ...]:
        """Try what was planned for a subject."""
        found = list(_attacked(self.directory, subject, planned, source=self.source, say=self.say))
        self.rows += [rows for rows, _ in found]
        outcomes = tuple(outcome for _, outcome in found)
        self.outcomes.append((subject, outcomes))
        return outcomes


def _attacked(
    directory: RunDirectory, subject: Subject, planned: Plan, *, source: str, say: Say
) -> Iterator[tuple[pl.DataFrame, Tried]]:
    """The rows and the outcome of each attempt; of a canary the guess that never looks at the update comes first."""
    guess: dict[int, float] = {}
    scored = subject.truth is not None
    if scored:
        floor = Attempt("", {"name": "null_mean"}, {"batch_size": "known"}, "told")
        rows = work(directory, subject, floor, source=source)
        guess = dict(rows.filter(pl.col("psnr").is_not_null()).select("sample", "psnr").iter_rows())
    answered: set[str] = set()
    certain: set[str] = set()
    for attempt in planned.attempts:
        if attempt.letter in {"always": set[str](), "uncertain": certain, "silent": answered}[attempt.where]:
            continue
        say(f"{subject.name}: {attempt.letter}, {attempt.attack['name']}")
        rows = work(directory, subject, attempt, source=source)
        outcome = tried(rows, letter=attempt.letter, scored=scored, guess=guess)
        if outcome.images:
            answered.add(attempt.letter)
        if all(every := certain_of(rows["details"][0])) and every:
            certain.add(attempt.letter)
        yield rows, outcome

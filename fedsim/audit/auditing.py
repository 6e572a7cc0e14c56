"""An audit from end to end: the store, what is attacked, what is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
from torch import nn

from fedsim import table
from fedsim.audit.adversaries import Attempt, Budget, Plan, plan
from fedsim.audit.canaries import Played, Sweep, pictures, played
from fedsim.audit.choosing import chosen
from fedsim.audit.consistency import Finding, findings, from_message
from fedsim.audit.defended import OTHERS, defended
from fedsim.audit.guessing import Guess, guesses
from fedsim.audit.matching import Unusable
from fedsim.audit.observing import Reply, completed
from fedsim.audit.outcome import Audit
from fedsim.audit.page import html
from fedsim.audit.told import Told
from fedsim.audit.verdict import DefenseTried, Swept, Tried, strongest, tried, verdict
from fedsim.audit.working import Subject, certain_of, work
from fedsim.errors import BadInput
from fedsim.files import write_json, write_text
from fedsim.recording import Fault, Store
from fedsim.runs import results
from fedsim.runs.directory import RunDirectory, claimed
from fedsim.version import __version__

MOST_REPLIES = 4
"""Replies of a store that are attacked, unless the user says which."""

DEFAULT = Budget()

Say = Callable[[str], None]


def audit_store(
    path: Path,
    told: Told,
    out: Path,
    *,
    budget: Budget = DEFAULT,
    rounds: Sequence[int] = (),
    nodes: Sequence[str] = (),
    replies: int = MOST_REPLIES,
    labels: str = "inferred",
    sweep: Sweep | None = None,
    guess: bool = False,
    command: str = "fedsim audit",
    say: Say = lambda line: None,
) -> Audit:
    """Attack what a store holds.

    Args:
        path: of the store.
        out: the directory to write to; what an earlier audit of the same left there is kept and used.
        rounds, nodes: which replies; all if empty.
        replies: how many of them, the first.
        labels: `inferred`, or `known`: those of canaries are granted.
        sweep: the canaries to play; None: none, and nothing is scored.
        guess: try other accounts of the client's training on the first reply.
        say: is told how far it is, in lines.

    Raises:
        BadInput: no store, no reply that can be audited, a model that cannot be built or does not fit, images that
            cannot be a canary. Nothing was written then.
    """
    store = Store.open(path)
    model = told.build()
    subjects, faults, left = _subjects(store, told, rounds=rounds, nodes=nodes, most=replies)
    if not subjects:
        raise BadInput(_nothing(path, store, faults))
    if sweep is not None:
        pictures(sweep, told)
    name = f"audit of {path.name}"
    marker = {"name": name, "audit": told.to_dict(), "scenario": {"name": name}, "command": command}
    with claimed(out, {**marker, "version": __version__}, fresh=False) as directory:
        desk = _Desk(directory, told.source(), budget, labels, say)
        for subject in subjects:
            desk.attack(subject)
        guessed: list[Guess] = []
        if guess:
            say(f"{subjects[0].name}: other accounts of its training")
            guessed = guesses(directory, subjects[0], subjects[0].told, model, budget, source=desk.source)
        swept: list[Swept] = []
        tried_defenses: list[DefenseTried] = []
        if sweep is not None:
            canaries = _canaries(desk, store, sweep, subjects, told, model)
            swept = [row for _, row in canaries]
            tried_defenses = list(_defenses(desk, canaries, model)) if sweep.defenses else []
        together = pl.concat([table.empty(), *desk.rows])
        results.write(directory, together)
        found = verdict(
            [outcome for subject, each in desk.outcomes for outcome in each if not subject.trial],
            desk.untried,
            limits=list(dict.fromkeys(desk.limits)),
            more=_more(left, sweep, tried_defenses),
            findings=_said([subject for subject, _ in desk.outcomes], desk.findings),
            sweep=swept,
            defenses=tried_defenses,
            guesses=guessed,
        )
        shown = tuple((subject, each) for subject, each in desk.outcomes if not subject.trial)
        audit = Audit(out, told, found, shown, tuple(faults), together, command)
        _write(audit)
    return audit


@dataclass
class _Desk:
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
        found = list(_attacked(self.directory, subject, planned, source=self.source, say=self.say))
        self.rows += [rows for rows, _ in found]
        outcomes = tuple(outcome for _, outcome in found)
        self.outcomes.append((subject, outcomes))
        return outcomes


def _canaries(
    desk: _Desk, store: Store, sweep: Sweep, subjects: Sequence[Subject], told: Told, model: nn.Module
) -> list[tuple[Played, Swept]]:
    """Play and attack the canaries: the whole sweep on what was sent in the first round, one and the client's own in
    the others."""
    found: list[tuple[Played, Swept]] = []
    firsts: dict[int, Subject] = {}
    for subject in subjects:
        firsts.setdefault(subject.reply.round, subject)
    part = replace(sweep, batches=(1,), steps=(1,))
    for place, (round, first) in enumerate(firsts.items()):
        seen = chosen(store.read(round, first.reply.node), model, told.arrays)
        wide, own = sweep if place == 0 else part, completed(told, seen.recorded)
        for one in played(wide, seen, own, model, most=desk.budget.images, say=desk.say):
            if isinstance(one, Finding):
                desk.findings.append((one, f"round {round}, canary"))
                continue
            whole = one.own or (one.batch_size, one.steps) == (1, 1)
            outcomes = desk.attack(one.subject, letters="ABCDEFGH" if whole else "C")
            found.append((one, _swept(one, outcomes)))
    return found


def _swept(one: Played, outcomes: Sequence[Tried]) -> Swept:
    assert one.subject.truth is not None
    return Swept(
        round=one.subject.reply.round,
        batch_size=one.batch_size,
        steps=one.steps,
        images=len(one.subject.truth.labels),
        own=one.own,
        replay=one.replayed.why or "",
        best=strongest(outcomes),
    )


def _defenses(desk: _Desk, canaries: Sequence[tuple[Played, Swept]], model: nn.Module) -> Iterator[DefenseTried]:
    """Each defense of an update on the canary that was rebuilt best, by an attacker who knows it."""
    rebuilt = [(one, row.best) for one, row in canaries if row.best is not None and row.best.rebuilt]
    if not rebuilt:
        return
    worst = max(rebuilt, key=lambda pair: (pair[1].rebuilt / (pair[1].of or 1), pair[1].psnr or 0.0))[0]
    own = next((one for one, _ in canaries if one.own), worst)
    for one in defended(worst, own, model):
        outcomes = desk.attack(one.subject, letters="C")
        assert one.subject.truth is not None
        yield DefenseTried(
            defense=one.label, best=strongest(outcomes), images=len(one.subject.truth.labels), kept=one.kept
        )


def _write(audit: Audit) -> None:
    write_json(audit.path / "verdict.json", audit.verdict.to_dict())
    write_text(audit.path / "audit.html", html(audit))


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


def _subjects(
    store: Store, told: Told, *, rounds: Sequence[int], nodes: Sequence[str], most: int
) -> tuple[list[Subject], list[Fault], int]:
    """The replies to attack, what cannot be, and how many were left out."""
    faults = list(store.faults())
    listed = [(r, n) for r, n in store.listed() if (not rounds or r in rounds) and (not nodes or n in nodes)]
    names = list(dict.fromkeys(node for _, node in store.listed()))
    model = told.build()
    subjects: list[Subject] = []
    left = 0
    for round, node in listed:
        if len(subjects) == most:
            left += 1
            continue
        try:
            recorded = chosen(store.read(round, node), model, told.arrays).recorded
            reply = Reply.of(recorded, told, model)
        except (Unusable, BadInput) as reason:
            faults.append(Fault(round, node, str(reason)))
            continue
        own = completed(told, recorded)
        seen = (*from_message(recorded.config, told), *findings(reply, own, model))
        subjects.append(Subject(f"round {round}, node {node}", reply, names.index(node), own, findings=seen))
    return subjects, faults, left


def _nothing(path: Path, store: Store, faults: Sequence[Fault]) -> str:
    if not store.listed() and not faults:
        return f"{path}: the store is empty; nothing was recorded yet"
    if not faults:
        return f"{path}: no reply of these rounds and nodes; there are {_known(store)}"
    reasons = list(dict.fromkeys(f"round {one.round}, node {one.node}: {one.reason}" for one in faults))
    return f"{path}: no reply can be audited ({'; '.join(reasons[:3])})"


def _known(store: Store) -> str:
    listed = store.listed()
    rounds = ", ".join(str(r) for r in sorted({r for r, _ in listed}))
    nodes = sorted({node for _, node in listed})
    return f"rounds {rounds} and nodes {', '.join(nodes[:6])}" + (f" and {len(nodes) - 6} more" if nodes[6:] else "")


def _said(subjects: Sequence[Subject], more: Sequence[tuple[Finding, str]]) -> list[dict[str, Any]]:
    """What the replies say, each sentence once, with those that say it."""
    whose: dict[Finding, list[str]] = {}
    said = [(finding, subject.name) for subject in subjects for finding in subject.findings]
    for finding, name in (*said, *more):
        whose.setdefault(finding, []).append(name)
    ordered = sorted(whose, key=lambda finding: not finding.wrong)
    return [{**finding.to_dict(), "of": whose[finding]} for finding in ordered]


def _more(left: int, sweep: Sweep | None, defenses: Sequence[DefenseTried]) -> list[str]:
    said = []
    if left:
        said.append(f"{left} more recorded repl{'ies were' if left > 1 else 'y was'} not attacked: --replies")
    if sweep is None:
        said.append("no canary was played, so nothing was scored: --app and --canary")
    if not defenses:
        said.append("no defense was tried")
    said += [f"not tried in your app: {other}" for other in OTHERS]
    return said

"""An audit from end to end: the store, what is attacked, what is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fedsim import table
from fedsim.audit.adversaries import Attempt, Budget, Plan, plan
from fedsim.audit.consistency import Finding, findings, from_message
from fedsim.audit.matching import Unusable
from fedsim.audit.observing import Reply, completed
from fedsim.audit.outcome import Audit
from fedsim.audit.page import html
from fedsim.audit.told import Told
from fedsim.audit.verdict import Tried, tried, verdict
from fedsim.audit.working import Subject, work
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
    command: str = "fedsim audit",
    say: Say = lambda line: None,
) -> Audit:
    """Attack what a store holds.

    Args:
        path: of the store.
        out: the directory to write to; what an earlier audit of the same left there is kept and used.
        rounds, nodes: which replies; all if empty.
        replies: how many of them, the first.
        say: is told how far it is, in lines.

    Raises:
        BadInput: no store, no reply that can be audited, or a model that cannot be built or does not fit. Nothing was
            written then.
    """
    store = Store.open(path)
    told.build()
    subjects, faults, left = _subjects(store, told, rounds=rounds, nodes=nodes, most=replies)
    if not subjects:
        raise BadInput(_nothing(path, store, faults))
    marker = {
        "name": f"audit of {path.name}",
        "audit": told.to_dict(),
        "scenario": {"name": f"audit of {path.name}"},
        "command": command,
        "version": __version__,
    }
    with claimed(out, marker, fresh=False) as directory:
        outcomes, rows = [], [table.empty()]
        untried: dict[str, str] = {}
        limits: list[str] = []
        source = told.source()
        for subject in subjects:
            planned = plan(subject.reply, subject.told, budget)
            untried |= planned.untried
            limits += planned.limits
            one = list(_attacked(directory, subject, planned, source=source, say=say))
            rows += [part for part, _ in one]
            outcomes.append((subject, tuple(outcome for _, outcome in one)))
        together = pl.concat(rows)
        results.write(directory, together)
        found = verdict(
            [outcome for _, each in outcomes for outcome in each],
            untried,
            limits=list(dict.fromkeys(limits)),
            more=_more(left),
            findings=_said(subjects),
        )
        audit = Audit(out, told, found, tuple(outcomes), tuple(faults), together, command)
        _write(audit)
    return audit


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
    for attempt in planned.attempts:
        if attempt.instead and attempt.letter in answered:
            continue
        say(f"{subject.name}: {attempt.letter}, {attempt.attack['name']}")
        rows = work(directory, subject, attempt, source=source)
        outcome = tried(rows, letter=attempt.letter, scored=scored, guess=guess)
        if outcome.images:
            answered.add(attempt.letter)
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
            recorded = store.read(round, node)
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


def _said(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """What the replies say, each sentence once, with those that say it."""
    whose: dict[Finding, list[str]] = {}
    for subject in subjects:
        for finding in subject.findings:
            whose.setdefault(finding, []).append(subject.name)
    ordered = sorted(whose, key=lambda finding: not finding.wrong)
    return [{**finding.to_dict(), "of": whose[finding]} for finding in ordered]


def _more(left: int) -> list[str]:
    said = []
    if left:
        said.append(f"{left} more recorded repl{'ies were' if left > 1 else 'y was'} not attacked: --replies")
    return said



"""An audit from end to end: the store, what is attacked, what is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
from torch import nn

from fedsim import table
from fedsim.audit.adversaries import Budget, Plan
from fedsim.audit.attempted import Tried, strongest
from fedsim.audit.canaries import Played, Sweep, pictures, played
from fedsim.audit.canaries_malicious import Declined, changed_canaries
from fedsim.audit.choosing import chosen
from fedsim.audit.defended import defended
from fedsim.audit.desk import Desk, Say
from fedsim.audit.finding import Finding
from fedsim.audit.gathering import not_tried, nothing_in, sayings, subjects_of
from fedsim.audit.guessing import Guess, guesses
from fedsim.audit.observing import completed
from fedsim.audit.outcome import Audit
from fedsim.audit.page import html
from fedsim.audit.told import Told
from fedsim.audit.verdict import DefenseTried, Swept, verdict
from fedsim.audit.working import Subject
from fedsim.errors import BadInput
from fedsim.files import write_json, write_text
from fedsim.recording import Store
from fedsim.runs import results
from fedsim.runs.directory import claimed
from fedsim.version import __version__

MOST_REPLIES = 4
"""Replies of a store that are attacked, unless the user says which."""

DEFAULT = Budget()


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
    subjects, faults, left = subjects_of(store, told, rounds=rounds, nodes=nodes, most=replies)
    if not subjects:
        raise BadInput(nothing_in(path, store, faults))
    if sweep is not None:
        pictures(sweep, told)
    name = f"audit of {path.name}"
    marker = {"name": name, "audit": told.to_dict(), "scenario": {"name": name}, "command": command}
    with claimed(out, {**marker, "version": __version__}, fresh=False) as directory:
        desk = Desk(directory, told.source(), budget, labels, say)
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
            _malicious(desk, store, sweep, subjects, told, model)
            tried_defenses = list(_defenses(desk, canaries, model)) if sweep.defenses else []
        together = pl.concat([table.empty(), *desk.rows])
        results.write(directory, together)
        found = verdict(
            [outcome for subject, each in desk.outcomes for outcome in each if not subject.trial],
            desk.untried,
            limits=list(dict.fromkeys(desk.limits)),
            more=not_tried(left, sweep, tried_defenses),
            findings=sayings([subject for subject, _ in desk.outcomes], desk.findings),
            sweep=swept,
            defenses=tried_defenses,
            guesses=guessed,
        )
        shown = tuple((subject, each) for subject, each in desk.outcomes if not subject.trial)
        audit = Audit(out, told, found, shown, tuple(faults), together, command)
        _write(audit)
    return audit


def _canaries(
    desk: Desk, store: Store, sweep: Sweep, subjects: Sequence[Subject], told: Told, model: nn.Module
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
        if place == 0 and (beyond := sweep.beyond(len(pictures(sweep, own)[0]), desk.budget.images)):
            desk.limits.append(beyond)
        for one in played(wide, seen, own, model, most=desk.budget.images, say=desk.say):
            if isinstance(one, Finding):
                desk.findings.append((one, f"round {round}, canary"))
                continue
            whole = one.own or (one.batch_size, one.steps) == (1, 1)
            outcomes = desk.attack(one.subject, letters="ABCDEFGH" if whole else "C")
            found.append((one, _swept(one, outcomes)))
    return found


def _malicious(
    desk: Desk, store: Store, sweep: Sweep, subjects: Sequence[Subject], told: Told, model: nn.Module
) -> None:
    """Play and attack the canaries of malicious servers, on what was sent in the first round."""
    first = subjects[0].reply
    seen = chosen(store.read(first.round, first.node), model, told.arrays)
    own = completed(told, seen.recorded)
    for one in changed_canaries(sweep, seen, own, model, desk.budget, say=desk.say):
        if isinstance(one, Declined):
            desk.untried[one.letter] = one.why
        else:
            subject, attempt = one
            desk.run(subject, Plan((attempt,), {}))


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


def _defenses(desk: Desk, canaries: Sequence[tuple[Played, Swept]], model: nn.Module) -> Iterator[DefenseTried]:
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

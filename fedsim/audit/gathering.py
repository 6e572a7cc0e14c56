"""What an audit is of: the replies of a store that can be attacked, and what is said of the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim.audit.canaries import Sweep
from fedsim.audit.choosing import chosen
from fedsim.audit.consistency import findings, from_message
from fedsim.audit.defended import OTHERS
from fedsim.audit.finding import Finding
from fedsim.audit.matching import Unusable
from fedsim.audit.observing import Reply, completed
from fedsim.audit.told import Told
from fedsim.audit.verdict import DefenseTried
from fedsim.audit.working import Subject
from fedsim.errors import BadInput
from fedsim.recording import Fault, Store


def subjects_of(
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


def nothing_in(path: Path, store: Store, faults: Sequence[Fault]) -> str:
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


def sayings(subjects: Sequence[Subject], more: Sequence[tuple[Finding, str]]) -> list[dict[str, Any]]:
    """What the replies say, each sentence once, with those that say it."""
    whose: dict[Finding, list[str]] = {}
    said = [(finding, subject.name) for subject in subjects for finding in subject.findings]
    for finding, name in (*said, *more):
        whose.setdefault(finding, []).append(name)
    ordered = sorted(whose, key=lambda finding: not finding.wrong)
    return [{**finding.to_dict(), "of": whose[finding]} for finding in ordered]


def not_tried(left: int, sweep: Sweep | None, defenses: Sequence[DefenseTried]) -> list[str]:
    said = []
    if left:
        said.append(f"{left} more recorded repl{'ies were' if left > 1 else 'y was'} not attacked: --replies")
    if sweep is None:
        said.append("no canary was played, so nothing was scored: --app and --canary")
    if not defenses:
        said.append("no defense was tried")
    said += [f"not tried in your app: {other}" for other in OTHERS]
    return said
